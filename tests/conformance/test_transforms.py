"""Every transform of the catalogue against one suite: strict, pure, stateless, the same on any thread."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import tokenizers
from PIL import Image as pillow
from tokenizers import models, pre_tokenizers

from windlass import errors, plugins
from windlass.transforms import base
from windlass.types import fields


class Sample(NamedTuple):
    """How to load a transform, and columns that it takes: two sets that give different answers."""

    parameters: dict[str, Any]
    files: dict[str, bytes]
    first: fields.Columns
    second: fields.Columns
    gives: tuple[str, ...]


def objects(*values: Any) -> Any:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def tokenizer() -> Sample:
    made = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return Sample(
        {"max_length": 4},
        {"tokenizer.json": made.to_str().encode()},
        {"text": objects("a b", "b")},
        {"text": objects("b b b b b")},
        ("input_ids", "attention_mask"),
    )


def image() -> Sample:
    def picture(value: int) -> bytes:
        encoded = io.BytesIO()
        pillow.fromarray(np.full((5, 7, 3), value, np.uint8)).save(encoded, "PNG")
        return encoded.getvalue()

    columns = ({"image": objects(picture(9), picture(200))}, {"image": objects(picture(30))})
    return Sample({"width": 3, "height": 2}, {}, *columns, ("image",))


def tabular() -> Sample:
    columns = [
        {"name": "n", "missing": "value", "fill": 1.0},
        {"name": "c", "kind": "category", "categories": ["x", "y"]},
    ]
    return Sample(
        {"columns": columns, "input": "input"},
        {},
        {"n": np.array([np.nan, 2.0]), "c": objects("x", "y")},
        {"n": np.array([5.0]), "c": objects("y")},
        ("input",),
    )


def classify() -> Sample:
    first, second = np.array([[1, 2], [3, 0]], np.float32), np.array([[9, 1]], np.float32)
    return Sample({"output": "y", "labels": ["a", "b"]}, {}, {"y": first}, {"y": second}, ("label", "score", "scores"))


def pooling() -> Sample:
    rng = np.random.default_rng(0)

    def columns(rows: int, tokens: int) -> fields.Columns:
        hidden = rng.standard_normal((rows, tokens, 4)).astype(np.float32)
        return {"last_hidden_state": hidden, "attention_mask": np.ones((rows, tokens), np.int64)}

    return Sample({}, {}, columns(2, 3), columns(1, 5), ("embedding",))


SAMPLES: dict[str, Callable[[], Sample]] = {
    "tokenizer": tokenizer,
    "image": image,
    "tabular": tabular,
    "classify": classify,
    "pooling": pooling,
}


def snapshot(columns: fields.Columns) -> str:
    return repr({name: (array.dtype, array.shape, array.tolist()) for name, array in columns.items()})


def refuses_unknown_parameters(kind: type[base.TransformKind], sample: Sample) -> None:
    with pytest.raises(errors.InvalidInput):
        kind.load({**sample.parameters, "surely_unknown": 1}, sample.files)


def refuses_unknown_files(kind: type[base.TransformKind], sample: Sample) -> None:
    with pytest.raises(errors.InvalidInput):
        kind.load(sample.parameters, {**sample.files, "surely_unknown": b""})


def leaves_what_it_is_given(kind: type[base.TransformKind], sample: Sample) -> None:
    transform = kind.load(sample.parameters, sample.files)
    before = snapshot(sample.first)
    transform.apply(sample.first)
    assert snapshot(sample.first) == before
    for array in sample.first.values():
        array.flags.writeable = False
    transform.apply(sample.first)


def keeps_no_state(kind: type[base.TransformKind], sample: Sample) -> None:
    transform = kind.load(sample.parameters, sample.files)
    alone = snapshot(transform.apply(sample.first))
    other = snapshot(transform.apply(sample.second))
    assert other != alone
    assert snapshot(transform.apply(sample.first)) == alone
    assert snapshot(kind.load(sample.parameters, sample.files).apply(sample.second)) == other


def is_the_same_on_any_thread(kind: type[base.TransformKind], sample: Sample) -> None:
    transform = kind.load(sample.parameters, sample.files)
    expected = {id(columns): snapshot(transform.apply(columns)) for columns in (sample.first, sample.second)}
    wrong: list[str] = []

    def work(columns: fields.Columns) -> None:
        wrong.extend(s for s in (snapshot(transform.apply(columns)) for _ in range(20)) if s != expected[id(columns)])

    threads = [threading.Thread(target=work, args=(columns,)) for columns in (sample.first, sample.second) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def keeps_columns_it_does_not_know(kind: type[base.TransformKind], sample: Sample) -> None:
    transform = kind.load(sample.parameters, sample.files)
    rows = len(next(iter(sample.first.values())))
    stranger = np.arange(rows)
    made = transform.apply({**sample.first, "stranger": stranger})
    assert made.get("stranger") is stranger
    assert set(made) == {"stranger", *sample.gives}
    assert all(len(array) == rows for array in made.values())


def refuses_what_is_missing(kind: type[base.TransformKind], sample: Sample) -> None:
    with pytest.raises(errors.InvalidInput):
        kind.load(sample.parameters, sample.files).apply({})


def says_what_it_reads(kind: type[base.TransformKind], sample: Sample) -> None:
    transform = kind.load(sample.parameters, sample.files)
    assert transform.stage in ("pre", "post")
    read = {field.name for field in transform.reads} | set(transform.needs)
    assert read <= set(sample.first)
    assert transform.stage == "post" or read == set(sample.first)
    assert all(isinstance(media, str) and "/" in media for media in transform.media)
    assert transform.inline_bytes >= 0


SUITE = (
    refuses_unknown_parameters,
    refuses_unknown_files,
    leaves_what_it_is_given,
    keeps_no_state,
    is_the_same_on_any_thread,
    keeps_columns_it_does_not_know,
    refuses_what_is_missing,
    says_what_it_reads,
)


@pytest.mark.parametrize("rule", SUITE, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", sorted(plugins.catalog()["transforms"]))
def test_transform(name: str, rule: Callable[[type[base.TransformKind], Sample], None]) -> None:
    assert name in SAMPLES, f"the transform '{name}' is in the catalogue and has no sample here"
    kind = plugins.load("transforms", name)
    assert kind.name == name
    rule(kind, SAMPLES[name]())


class _Double:
    """A plain transform that does all as it should; each fault below breaks one thing."""

    name: ClassVar[str] = "double"
    stage = "post"
    reads: tuple[fields.Field, ...] = ()
    media: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    inline_bytes = 0

    @classmethod
    def load(cls, parameters: Mapping[str, Any], files: Mapping[str, bytes]) -> Any:
        if parameters or files:
            raise errors.InvalidInput("no parameters")
        return cls()

    def apply(self, columns: fields.Columns) -> fields.Columns:
        if "y" not in columns:
            raise errors.InvalidInput("y")
        return {**columns, "y": columns["y"] * 2}


class _Lenient(_Double):
    @classmethod
    def load(cls, parameters: Mapping[str, Any], files: Mapping[str, bytes]) -> Any:
        return cls()


class _Mutating(_Double):
    def apply(self, columns: fields.Columns) -> fields.Columns:
        made = super().apply(columns)
        columns["y"] *= 2
        return made


class _Stateful(_Double):
    def __init__(self) -> None:
        self.calls = 0

    def apply(self, columns: fields.Columns) -> fields.Columns:
        self.calls += 1
        return {**super().apply(columns), "y": columns["y"] + self.calls}


class _Greedy(_Double):
    def apply(self, columns: fields.Columns) -> fields.Columns:
        return {"y": super().apply(columns)["y"]}


class _Reading(_Double):
    needs = ("z",)


DOUBLES = Sample({}, {}, {"y": np.ones(2)}, {"y": np.full(1, 5.0)}, ("y",))


@pytest.mark.parametrize("rule", SUITE, ids=lambda rule: rule.__name__)
def test_the_suite_passes_a_sound_transform(rule: Callable[[Any, Sample], None]) -> None:
    rule(_Double, DOUBLES._replace(first={"y": np.ones(2)}))


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (_Lenient, refuses_unknown_parameters),
        (_Lenient, refuses_unknown_files),
        (_Mutating, leaves_what_it_is_given),
        (_Stateful, keeps_no_state),
        (_Stateful, is_the_same_on_any_thread),
        (_Greedy, keeps_columns_it_does_not_know),
        (_Reading, says_what_it_reads),
    ],
    ids=lambda value: value.__name__,
)
def test_the_suite_fails_a_faulty_transform(kind: Any, rule: Callable[[Any, Sample], None]) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        rule(kind, DOUBLES._replace(first={"y": np.ones(2)}, second={"y": np.full(1, 5.0)}))
