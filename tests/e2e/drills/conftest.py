"""What the drills share: callers of every kind at once, each of whose requests has one end, and their account.

Used by the drills only. Must never ask faster than a machine that has other things to do can bear: the model that is
asked takes its time.
"""

from __future__ import annotations

import collections
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from windlass.client import load, plan, report

QUESTIONS = 20
PAUSE_S = 0.02
RECONNECT = [(f"grpc.{which}_reconnect_backoff_ms", 100) for which in ("initial", "min", "max")]


def _body(width: int) -> bytes:
    row = {"name": "x", "shape": [1, width], "datatype": "FP32", "data": [0.5] * width}
    return json.dumps({"inputs": [row]}).encode()


def _message(model: str, width: int) -> service_pb2.ModelInferRequest:
    asked = service_pb2.ModelInferRequest(model_name=model)
    asked.inputs.add(name="x", datatype="FP32", shape=[1, width])
    asked.raw_input_contents.append(np.full((1, width), 0.5, np.float32).tobytes())
    return asked


def _end(told: str) -> str:
    """How a question of a stream ended: a server that starts or has too much to do says so."""
    if not told:
        return "ok"
    return "rejected" if "is loading" in told or "queue is too long" in told else "failed"


class Conversations:
    """gRPC streams of a few questions each, one stream after the other, until they are stopped."""

    def __init__(self, address: str, question: service_pb2.ModelInferRequest) -> None:
        self._address, self._question = address, question
        self._over = threading.Event()
        self._ends: collections.Counter[str] = collections.Counter()
        self.said: collections.Counter[str] = collections.Counter()
        self._thread = threading.Thread(target=self._run, name="conversations", daemon=True)

    def start(self) -> Conversations:
        self._thread.start()
        return self

    def stop(self) -> report.Outcomes:
        """Each question once: answered, refused in so many words, or broken off."""
        self._over.set()
        self._thread.join()
        return report.Outcomes(**self._ends)

    def _run(self) -> None:
        with grpc.insecure_channel(self._address, options=RECONNECT) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while not self._over.wait(PAUSE_S):
                self._converse(stub)

    def _converse(self, stub: Any) -> None:
        answered = 0
        try:
            for answer in stub.ModelStreamInfer(iter([self._question] * QUESTIONS), timeout=60, wait_for_ready=True):
                answered += 1
                self._ends[_end(answer.error_message)] += 1
                self.said[answer.error_message] += 1
        except grpc.RpcError as e:
            told = e.code() is grpc.StatusCode.UNAVAILABLE and "shutting down" in e.details()
            self._ends["rejected" if told else "broken"] += QUESTIONS - answered
            self.said[f"{e.code()} {e.details()}"] += 1
        else:
            self._ends["broken"] += QUESTIONS - answered


class Mix:
    """Callers who keep their connection, callers who open one for each request, gRPC calls, and gRPC streams."""

    def __init__(self, url: str, model: str, width: int = 4, kept: int = 4) -> None:
        host, port = url.removeprefix("http://").rsplit(":", 1)
        ask, body = f"{url}/v2/models/{model}/infer", _body(width)
        question = _message(model, width)
        data = question.SerializeToString()
        calls = plan.Target(
            host,
            int(port),
            (plan.Request(b"\0" + len(data).to_bytes(4, "big") + data),),
            "grpc",
            "/inference.GRPCInferenceService/ModelInfer",
        )
        closing = load.http(ask, body, headers={"connection": "close"})
        self._loads = {
            "kept": load.Load(load.closed(load.http(ask, body), connections=kept)).start(),
            "opened": load.Load(load.closed(closing, connections=2)).start(),
            "calls": load.Load(load.closed(calls, connections=1, streams=4)).start(),
        }
        self._conversations = Conversations(f"{host}:{port}", question).start()
        self.ends: dict[str, report.Outcomes] = {}

    def stop(self) -> report.Outcomes:
        """All of them together; `ends` has them by kind."""
        reports = {name: one.stop() for name, one in self._loads.items()}
        self.statuses = {name: one.statuses for name, one in reports.items()}
        self.ends = {name: one.outcomes for name, one in reports.items()}
        self.ends["streams"] = self._conversations.stop()
        return sum(self.ends.values(), report.Outcomes())

    @property
    def said(self) -> dict[str, Any]:
        """What they were told: statuses by kind of caller, and the words to streams."""
        return {**self.statuses, "streams": dict(self._conversations.said)}


@contextlib.contextmanager
def _asked(url: str, model: str, width: int = 4, kept: int = 4) -> Iterator[Mix]:
    mix = Mix(url, model, width, kept)
    try:
        yield mix
    finally:
        if not mix.ends:
            mix.stop()


def _settled(server: Any, seconds: float = 10.0) -> dict[str, int]:
    """The server's counts, once nothing is under way."""
    until = time.monotonic() + seconds
    while server.metrics()[("windlass_in_flight",)]:
        assert time.monotonic() < until, "something is under way for ever"
        time.sleep(0.02)
    found: dict[str, int] = server.outcomes()
    return found


def _workers(server: Any) -> dict[int, dict[str, Any]]:
    told = httpx.get(f"{server.admin_url}/status", timeout=20).json()["workers"]
    return {one["pid"]: one for one in told if one["state"] == "serving"}


@pytest.fixture(scope="session")
def asked() -> Callable[..., Any]:
    """`with asked(url, model) as mix`: callers of all kinds; `mix.stop()` gives their account."""
    return _asked


@pytest.fixture(scope="session")
def settled() -> Callable[..., dict[str, int]]:
    """What the server counted, once nothing is under way."""
    return _settled


@pytest.fixture(scope="session")
def workers() -> Callable[[Any], dict[int, dict[str, Any]]]:
    """The workers that serve, by process id."""
    return _workers
