"""`distill`: who teaches, what is refused, and that the student is the one that was asked for."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from windlass import errors  # noqa: E402
from windlass.optimization import form as forms  # noqa: E402
from windlass.optimization import runnable  # noqa: E402
from windlass.optimization.techniques import base, distill  # noqa: E402
from windlass.optimization.training import networks, teaching  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = {"epochs": 5}


@pytest.fixture(scope="module")
def original(one_thread: None, trainable: ModuleType) -> forms.Form:
    return forms.Form({}, network=trainable.trained(epochs=2))


def student(trainable: ModuleType) -> Any:
    return lambda: trainable.Convolutions(width=8)


def found(form: forms.Form, trainable: ModuleType) -> tuple[np.ndarray, np.ndarray]:
    """The classes that a form's network finds, and the right ones."""
    images, labels = trainable.rows(256, 9)
    return networks.answers(form.network, ("image",), {"image": images}).argmax(axis=1), labels


@pytest.mark.usefixtures("not_exported")
def test_a_student_learns_from_the_original(trainable: ModuleType, original: forms.Form, tmp_path: Path) -> None:
    materials = trainable.materials(tmp_path, student=student(trainable))
    assert distill.Distill.refusal(original, materials) == ""
    before = torch.random.get_rng_state()
    made = distill.Distill.apply(original, QUICK, materials)
    assert torch.equal(before, torch.random.get_rng_state())
    assert made.network.first.out_channels == 8
    assert made.steps == (forms.Step("distill", {"temperature": 3.0, "alpha": 0.7, "epochs": 5}),)
    ours, right = found(made, trainable)
    # One in four would be right by chance.
    assert float((ours == right).mean()) > 0.45
    assert "distilled from 1 teacher(s)" in made.notes[-1]
    again = distill.Distill.apply(original, QUICK, materials).network.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in made.network.state_dict().items())


def test_an_original_without_a_network_teaches_as_well(
    trainable: ModuleType, original: forms.Form, tmp_path: Path
) -> None:
    lesson = trainable.lesson(100, 10)
    bare = msgspec.structs.replace(trainable.form(original.network, tmp_path), network=None)
    ours = teaching.taught(lesson, bare, ("image",)).teachers
    theirs = teaching.taught(lesson, original, ("image",)).teachers
    assert len(ours) == len(theirs) == 1
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        theirs[0], networks.answers(original.network, ("image",), lesson.inputs), rtol=1e-6, atol=1e-6
    )


@pytest.mark.usefixtures("not_exported")
def test_teachers_that_were_given_are_the_ones_that_teach(
    trainable: ModuleType, original: forms.Form, tmp_path: Path
) -> None:
    lesson = trainable.lesson(512, 32)
    # Both say the same class for every row, whatever the labels say.
    said = np.tile(np.array([0, 9, 0, 0], np.float32), (512, 1))
    taught = msgspec.structs.replace(lesson, labels=None, teachers=(said, said * 2))
    materials = trainable.materials(tmp_path, student=student(trainable), lesson=taught)
    made = distill.Distill.apply(original, {"epochs": 5}, materials)
    assert (found(made, trainable)[0] == 1).all()
    assert "from 2 teacher(s)" in made.notes[-1]


def test_what_is_missing_is_said(trainable: ModuleType, original: forms.Form, tmp_path: Path) -> None:
    ready = trainable.materials(tmp_path, student=student(trainable))
    without = msgspec.structs.replace(ready, student=None)
    assert "no student" in distill.Distill.refusal(original, without)
    with pytest.raises(errors.UsageError, match="needs a student"):
        distill.Distill.apply(original, QUICK, without)
    untaught = msgspec.structs.replace(ready, lesson=None)
    assert "no rows to train on" in distill.Distill.refusal(original, untaught)
    with pytest.raises(errors.UsageError, match="needs rows"):
        distill.Distill.apply(original, QUICK, untaught)
    later = msgspec.structs.replace(original, steps=(forms.Step("half"),))
    assert "learns from the original" in distill.Distill.refusal(later, ready)
    with pytest.raises(errors.UsageError, match="'epochs' of 'distill' is one of 20, 5, 60"):
        distill.Distill.apply(original, {"epochs": 7}, ready)


def broken() -> Any:
    raise ValueError("no such width")


@pytest.mark.parametrize(
    ("factory", "kind", "words"),
    [
        (broken, errors.CaptureFailed, "the student cannot be made: ValueError: no such width"),
        (lambda: 5, errors.UsageError, "the student is a int"),
        (lambda: torch.nn.Flatten(), errors.UsageError, "nothing to train|a teacher answers|classes"),
        (lambda: torch.nn.Linear(3, 4), errors.CaptureFailed, "the network fails on image"),
    ],
)
def test_a_student_that_will_not_do_is_refused(
    trainable: ModuleType, original: forms.Form, tmp_path: Path, factory: Any, kind: type[Exception], words: str
) -> None:
    materials: base.Materials = trainable.materials(tmp_path, student=factory)
    with pytest.raises(kind, match=words):
        distill.Distill.apply(original, QUICK, materials)


def test_a_model_that_answers_without_floats_cannot_teach(
    trainable: ModuleType, original: forms.Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Classes:
        def run(self, inputs: Any) -> Any:
            return {"class": np.zeros(len(inputs["image"]), np.int64)}

        def close(self) -> None:
            pass

    monkeypatch.setattr(runnable, "open", lambda form: Classes())
    bare = msgspec.structs.replace(original, network=None)
    with pytest.raises(errors.Unsupported, match="answers with no floats"):
        teaching.taught(trainable.lesson(8, 2), bare, ("image",))
