"""The shadow: what it takes, what it drops, and what it says of the answers. Its thread is not started: turns are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from windlass import errors
from windlass.serving.metrics import counters
from windlass.serving.routing import arms, differing, disagreements, shadow
from windlass.types import directory, inference, spec, tensor

Take = Callable[[float], None]


class Mirrored:
    """A shadow beside an echo, each of whose answers may be off by what is told."""

    def __init__(self, packages: Any, folder: Path, loop: asyncio.AbstractEventLoop, share: float) -> None:
        endpoint = spec.Endpoint(
            "m", (packages.arm("1"),), threads=1, shadow=spec.Shadow(packages.arm("2"), share, atol=0.1, rtol=0)
        )
        primary, mirrored = arms.parts(endpoint)
        self.primary = packages.load(primary, "", ())
        self.series = counters.Counters()
        self.store = disagreements.Store(str(folder), "m")
        self.log = differing.Log(str(folder), "m", lambda: 7.0)
        self.places: Iterator[float] = iter(lambda: 0.5, None)
        self.shadow = shadow.Shadow(
            loop,
            mirrored,
            packages.load(mirrored, "", ()),
            shadow.Counts(self.series, "m", "2"),
            self.store,
            self.log,
            uniform=lambda: next(self.places),
        )
        self.mirror = self.shadow.mirror_of(self.primary, "1", 3)

    def take(self, *values: float, off: float = 0.0, again: directory.Again | None = None) -> None:
        """An answered request with one row a value; the answer sent is off by `off`."""
        inputs = {"x": np.array([[v, 0] for v in values], np.float32)}
        answer: tensor.Tensors = {"y": inputs["x"] + np.array([off, 0], np.float32)}
        request = inference.InferRequest(model="m", inputs=inputs, rows=len(values), id=f"id{values[0]}")
        self.mirror(request, inference.InferResponse(answer, "1"), again or _unasked)

    def counts(self) -> dict[str, int]:
        return {key[-1]: slot[0] for key, slot in self.series.single["counter"].items() if slot[0] and len(key) == 4}


def _unasked(_view: directory.ModelView) -> inference.InferRequest:
    raise RuntimeError("the body need not be decoded again")


@pytest.fixture
def mirrored(packages: Any, tmp_path: Path) -> Iterator[Mirrored]:
    """One that takes every request."""
    loop = asyncio.new_event_loop()
    yield Mirrored(packages, tmp_path, loop, 100.0)
    loop.close()


def test_answers_are_compared_in_one_run_and_differences_are_kept(mirrored: Mirrored, tmp_path: Path) -> None:
    runs: list[int] = []
    model = mirrored.shadow.loaded.session.model
    run = model.run

    def counted(inputs: tensor.Tensors) -> tensor.Tensors:
        runs.append(len(inputs["x"]))
        return run(inputs)

    model.run = counted  # type: ignore[method-assign,assignment]
    mirrored.take(1.0)
    mirrored.take(2.0, 3.0, off=0.05)
    mirrored.take(-4.0, off=7.0)
    mirrored.shadow.turn()
    assert runs == [4]
    # An echo's row [v, 0] looks like scores: -4 + 7 makes another column the highest.
    assert mirrored.counts() == {
        "mirrored": 3,
        "compared": 3,
        "disagreed": 1,
        "scored": 4,
        "same_top": 3,
        "classed": 2,
        "class_differed": 1,
    }
    assert mirrored.shadow.max_difference == pytest.approx(7.0)
    mirrored.store.write()
    (one,) = disagreements.read(tmp_path, "m")
    assert (one.request, one.arm, one.shadow, one.difference) == ("id-4.0", "1", "2", 7.0)


def test_requests_of_one_row_that_get_two_classes_are_logged(mirrored: Mirrored, tmp_path: Path) -> None:
    mirrored.take(1.0)
    mirrored.take(-4.0, off=7.0)
    # A label is told of a request, not of one of its rows.
    mirrored.take(-5.0, 2.0, off=9.0)
    mirrored.shadow.turn()
    assert (mirrored.counts()["classed"], mirrored.counts()["class_differed"]) == (2, 1)
    assert list(differing.read(tmp_path, "m")) == []
    mirrored.log.write()
    # The answer [3, 0] was sent, the shadow's was [-4, 0].
    assert list(differing.read(tmp_path, "m")) == [differing.Differing(7.0, "id-4.0", "m", "1", "2", "0", "1", 3)]
    (path,) = (tmp_path / "differing" / "m").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_request_that_fails_fails_alone(mirrored: Mirrored) -> None:
    model = mirrored.shadow.loaded.session.model
    run = model.run

    def fails(inputs: tensor.Tensors) -> tensor.Tensors:
        if (inputs["x"] == 13).any():
            raise RuntimeError("unlucky")
        return run(inputs)

    model.run = fails  # type: ignore[method-assign,assignment]
    for value in (1.0, 13.0, 2.0):
        mirrored.take(value)
    mirrored.shadow.turn()
    assert mirrored.counts() == {
        "mirrored": 3,
        "compared": 2,
        "failed": 1,
        "scored": 2,
        "same_top": 2,
        "classed": 2,
    }


def test_what_cannot_be_compared_is_counted_as_failed(mirrored: Mirrored) -> None:
    model = mirrored.shadow.loaded.session.model

    def odd(inputs: tensor.Tensors) -> tensor.Tensors:
        return {"y": "no tensor"}  # type: ignore[dict-item]

    model.run = odd  # type: ignore[method-assign,assignment]
    for value in (1.0, 2.0):
        mirrored.take(value)
    mirrored.shadow.turn()
    assert mirrored.counts() == {"mirrored": 2, "failed": 2}


def test_without_slack_it_takes_no_more(mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "QUEUE_REQUESTS", 2)
    for value in range(3):
        mirrored.take(value)
    assert mirrored.counts() == {"mirrored": 2, "dropped": 1}
    mirrored.shadow.turn()
    # Inputs and answers of one request.
    monkeypatch.setattr(shadow, "QUEUE_BYTES", 24)
    mirrored.take(1.0)
    mirrored.take(1.0)
    assert mirrored.counts()["dropped"] == 2
    mirrored.shadow.turn()
    assert mirrored.counts()["compared"] == 3


def test_it_takes_the_share_that_it_is_told(mirrored: Mirrored) -> None:
    mirrored.shadow.settings = msgspec.structs.replace(mirrored.shadow.settings, share=25.0)
    mirrored.places = iter((0.0, 0.249, 0.25, 0.99))
    for value in range(4):
        mirrored.take(value)
    assert mirrored.counts() == {"mirrored": 2, "skipped": 2}


def test_a_version_that_reads_bodies_otherwise_decodes_them_again(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "_reads_alike", lambda _one, _two: False)
    mirrored.mirror = mirrored.shadow.mirror_of(mirrored.primary, "1", 3)
    asked: list[str] = []

    def again(view: directory.ModelView) -> inference.InferRequest:
        asked.append(view.version)
        return inference.InferRequest(model="m", inputs={"x": np.array([[5.0, 0]], np.float32)})

    def refuses(_view: directory.ModelView) -> inference.InferRequest:
        raise errors.InvalidInput("no")

    mirrored.take(1.0, off=4.0, again=again)
    mirrored.take(1.0, again=refuses)
    mirrored.shadow.turn()
    assert asked == ["2"]
    assert mirrored.counts() == {
        "mirrored": 2,
        "compared": 1,
        "failed": 1,
        "scored": 1,
        "same_top": 1,
        "classed": 1,
    }
