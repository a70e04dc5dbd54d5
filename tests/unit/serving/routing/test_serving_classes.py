"""The class of an answer: found where there is no doubt what is meant, and named as a label would name it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.serving.routing import classes, differing, segments
from windlass.types import manifest, signature


class Known(msgspec.Struct):
    """What a reader is made from, of a manifest."""

    signature: signature.Signature
    transforms: tuple[manifest.TransformSpec, ...] = ()


def outputs(**shapes: Any) -> Known:
    made = tuple(signature.TensorSpec(name, kind, ("batch", *shape)) for name, (kind, *shape) in shapes.items())
    return Known(signature.Signature((), made))


@pytest.mark.parametrize(
    ("known", "found"),
    [
        (outputs(y=("FP32", 3)), classes.Reader("y", scores=True)),
        (outputs(y=("FP32", "classes")), classes.Reader("y", scores=True)),
        (outputs(y=("FP32", 1)), None),
        (outputs(y=("FP32",)), None),
        (outputs(y=("FP32", 3, 8)), None),
        (outputs(y=("FP32", 3), z=("FP32", 3)), None),
        (outputs(label=("INT64",), probabilities=("FP32", 3)), classes.Reader("label", scores=False)),
        (outputs(label=("BYTES", 1), hint=("INT64", 4)), classes.Reader("label", scores=False)),
        (outputs(one=("INT64",), two=("BOOL",)), None),
    ],
)
def test_a_class_is_looked_for_where_nothing_else_could_be_meant(known: Any, found: classes.Reader | None) -> None:
    assert classes.reader(known) == found


@pytest.mark.parametrize(("activation", "above"), [("softmax", 0.5), ("none", 0.5), ("sigmoid", 0.0)])
def test_the_transform_that_names_classes_says_where_they_are(activation: str, above: float) -> None:
    known = outputs(y=("FP32", 3), z=("FP32", 3))
    said = {"output": "z", "activation": activation, "labels": ["a", "b", "c"]}
    known.transforms = (manifest.TransformSpec("classify", said),)
    assert classes.reader(known) == classes.Reader("z", True, ("a", "b", "c"), above)  # type: ignore[arg-type]


def test_classes_are_read_as_labels_name_them() -> None:
    scores = {"y": np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]], np.float32)}
    assert classes.Reader("y", scores=True).read(scores, 2) == ["1", "0"]
    assert classes.Reader("y", scores=True, labels=("a", "b", "c")).read(scores, 2) == ["b", "a"]
    second = {"y": np.array([0.5, 0.51], np.float32)}
    assert classes.Reader("y", scores=True, labels=("no", "yes")).read(second, 2) == ["no", "yes"]
    assert classes.Reader("y", scores=False).read({"y": np.array([[3], [-1]])}, 2) == ["3", "-1"]
    assert classes.Reader("y", scores=False).read({"y": np.array([b"caf\xc3\xa9", "b"], object)}, 2) == ["café", "b"]
    assert classes.Reader("y", scores=False).read({"y": np.array([True, False])}, 2) == ["true", "false"]


@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (2, 3, 1), (0, 3)])
def test_answers_of_another_shape_have_no_class(shape: tuple[int, ...]) -> None:
    answer = {"y": np.zeros(shape)}
    assert classes.Reader("y", scores=False).read(answer, 2) is None
    assert classes.Reader("x", scores=True).read(answer, 2) is None
    assert classes.Reader("y", scores=True, labels=("a", "b", "c")).read(answer, 2) is None


@given(st.lists(st.tuples(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300)), max_size=8))
def test_what_is_logged_is_read_again(tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, ...]]) -> None:
    folder = tmp_path_factory.mktemp("state")
    log = differing.Log(str(folder), "m", lambda: 7.0)
    for request, one, two in lines:
        log.add(request, ("1", "2"), (one, two), 4)
    log.write()
    log.close()
    found = [(line.request, line.answered, line.mirrored) for line in differing.read(folder, "m")]
    assert found == [line for line in lines if line[0] and max(map(len, line[1:])) <= 256]


def test_the_log_is_bounded_and_needs_a_folder(tmp_path: Any) -> None:
    for number in range(20):
        kept = segments.Segments(tmp_path, lambda at=number: at, segment_bytes=100, retained_bytes=400)  # type: ignore[misc]
        kept.append(b"%039d\n" % number)
        kept.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 400
    assert [int(line) for line in segments.read(tmp_path, 0.0)] == [12, 13, 14, 15, 16, 17, 18, 19][-8:]
    nowhere = differing.Log("", "m")
    nowhere.add("r1", ("1", "2"), ("a", "b"), 1)
    nowhere.write()
    nowhere.close()
