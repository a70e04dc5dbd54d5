"""Shadows judged by labels, on a real server: what is worse is sent back, what is better is not refused."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from windlass.packaging import build, draft
from windlass.records import feedback
from windlass.types import deployment, evidence, signature

pytestmark = pytest.mark.timeout(300)
LABELS = ("fine", "fraud")
# `a` says fine, `b` says fraud: two models that differ about every request.
ASKED = {
    "inputs": [
        {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [0.9, 0.1]},
        {"name": "b", "shape": [1, 2], "datatype": "FP32", "data": [0.2, 0.8]},
    ]
}


def _release(shared: Any, heeds: str) -> deployment.Release:
    """A version whose class is that of its input `a` or `b`."""
    a, b = (signature.TensorSpec(name, "FP32", ("batch", 2)) for name in "ab")
    scores, rest = (msgspec.structs.replace(a, name=name) for name in ("scores", "rest"))
    first = (a, b) if heeds == "a" else (b, a)
    inputs = {"a": np.full((2, 2), 0.1, np.float32), "b": np.full((2, 2), 0.2, np.float32)}
    outputs = {"scores": inputs[heeds], "rest": inputs["b" if heeds == "a" else "a"]}
    made = draft.Draft(
        files={"echo.json": msgspec.json.encode({"inputs": first, "outputs": (scores, rest)})},
        signature=signature.Signature((a, b), (scores, rest)),
        trials=(draft.Trial("tenths", inputs, outputs),),
        framework="echo",
        runtime="echo",
        transforms=(draft.TransformDraft("classify", {"output": "scores", "activation": "none", "labels": LABELS}),),
        max_batch=8,
        # Of two equal versions the second is a version all the same.
        notes=(f"made {time.time_ns()}",),
    )
    package = build.build(made, name="judged")
    passed = (evidence.Evidence(package.digest, "parity", "passed", {"max_error": 0.0}),)
    pushed = shared.registry.push(package, name="judged", actor="ada", evidence=passed)
    return deployment.Release("judged", pushed.version, package.digest)


def _shadowed(shared: Any, release: deployment.Release, label: str) -> Any:
    """The end of a shadow's rollout whose every request turns out to be what `label` says."""
    shared.wish(release, "shadow", labels=True, min_s=0.2, max_s=60.0, disagreement=0.05, then="promote")
    shared.until(lambda: shared.last("judged").new == release and shared.status("judged").phase == "RUNNING")
    numbers = itertools.count()
    with httpx.Client(base_url=shared.url(), timeout=30) as client:

        def ended() -> bool:
            ids = [f"{release.version}-{next(numbers)}" for _ in range(3)]
            for request in ids:
                answer = client.post(
                    "/v2/models/judged/infer", content=json.dumps(ASKED), headers={"x-request-id": request}
                )
                assert answer.status_code == 200, answer.text
            given = [feedback.Given(0.0, request=request, label=label) for request in ids]
            with shared.rows.write() as connection:
                feedback.add(connection, "judged", given, now=time.time())
            return shared.last("judged").ended_at is not None

        shared.until(ended)
    return shared.last("judged")


def test_labels_say_which_of_two_versions_is_right(shared: Any) -> None:
    old, better, worse = (_release(shared, heeds) for heeds in "aba")
    shared.live(old)
    ended = _shadowed(shared, better, "fraud")
    assert (ended.outcome, ended.verdict) == ("new", "PROMOTE"), ended.words
    assert f"version {old.arm} was right about 0, version {better.arm} about" in ended.words
    ended = _shadowed(shared, worse, "fraud")
    assert (ended.outcome, ended.verdict) == ("old", "ABORT"), ended.words
    assert f"version {worse.arm} about 0; were it no worse, that would come at most once in" in ended.words
    assert shared.status("judged").live == better
