"""The control socket: what its operator is told, and what the log keeps of what others are not told."""

from __future__ import annotations

import logging
from typing import Any

import orjson
import pytest

from windlass import errors
from windlass.protocols import errors as statuses
from windlass.serving import admin

WHY = "the version sha256:0123 failed its probation load: a segmentation fault"


@pytest.mark.promise("P-39")
def test_the_operator_is_told_why_a_spec_is_refused() -> None:
    control = admin.Control(None)  # type: ignore[arg-type]
    for error in (errors.GateRefused(WHY), errors.CorruptPackage(WHY), errors.InternalError(WHY)):
        told = orjson.loads(control.encode_error(error, "id-1").body)["error"]
        assert told == {"code": error.code, "message": WHY, "request_id": "id-1"}
        assert WHY not in statuses.sentence(error)


def test_what_a_caller_is_not_told_is_in_the_log(
    make_server: Any, parse_responses: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server()

    def refuse(*_: object) -> None:
        raise errors.CorruptPackage(WHY)

    monkeypatch.setattr(server.models, "find", refuse)
    with caplog.at_level(logging.ERROR):
        (answer,) = parse_responses(
            server.ask(b"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
        )
    assert answer.status == 500
    assert b"segmentation" not in answer.body
    assert WHY in caplog.text
    assert answer.headers[b"x-request-id"].decode() in caplog.text
