"""The access log: one whole line of JSON for each answer, whatever a caller sent and however slowly it is read."""

from __future__ import annotations

import json
import logging
import os
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import telemetry
from windlass.serving.metrics import access_log, counters, log_writer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
RECORD = access_log.Record(
    method=b"POST",
    target=b"/v2/models/m/infer",
    status=200,
    bytes_in=120,
    bytes_out=64,
    seconds=0.0012345,
    peer="10.0.0.1:4711",
    caller="key-1",
    request_id="abc-1",
    model="m",
    version="3",
    protocol="oip_rest",
)


def read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def dropped(series: counters.Counters) -> dict[str, int]:
    return {why: series.counter(telemetry.LOG_DROPPED, why)[0] for why in ("full", "failed")}


def test_a_line_tells_who_asked_what() -> None:
    record = msgspec.structs.replace(
        RECORD, arm="b", grpc_status=14, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01".encode()
    )
    assert json.loads(access_log.line(1_700_000_000.25, record)) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "method": "POST",
        "path": "/v2/models/m/infer",
        "status": 200,
        "bytes_in": 120,
        "bytes_out": 64,
        "ms": 1.234,
        "peer": "10.0.0.1:4711",
        "caller": "key-1",
        "request_id": "abc-1",
        "model": "m",
        "version": "3",
        "arm": "b",
        "protocol": "oip_rest",
        "grpc_status": 14,
        "trace_id": TRACE,
    }
    assert not {"arm", "grpc_status", "trace_id"} & set(json.loads(access_log.line(0.0, RECORD)))


@settings(deadline=None)
@given(st.binary(max_size=2_000), st.binary(max_size=300), st.text(max_size=300), st.binary(max_size=100))
def test_no_caller_can_start_a_line_or_steer_a_terminal(
    target: bytes, method: bytes, word: str, traceparent: bytes
) -> None:
    record = msgspec.structs.replace(
        RECORD, target=target, method=method, caller=word, model=word, request_id=word, traceparent=traceparent
    )
    text = access_log.line(0.0, record)
    assert text.endswith(b"\n")
    assert all(0x20 <= byte < 0x7F for byte in text[:-1])
    assert len(text) <= 8_192
    told = json.loads(text)
    assert told["caller"] == word[:128]
    assert told["status"] == 200


@pytest.mark.promise("P-18")
@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v2/models/m/infer?api_key=wl_secret", "/v2/models/m/infer"),
        (b"/a#wl_secret", "/a"),
        (b"http://user:wl_secret@host/a/b?x=wl_secret", "/a/b"),
        (b"http://user:wl_secret@host", "/"),
        (b"http://user:wl_secret@host?x", "/"),
        (b"*", "*"),
        (b"?wl_secret", ""),
        (b"/" + b"a" * 600 + b"?wl_secret", "/" + "a" * 511),
    ],
)
def test_a_query_or_a_password_is_never_written(target: bytes, path: str) -> None:
    text = access_log.line(0.0, msgspec.structs.replace(RECORD, target=target))
    assert json.loads(text)["path"] == path
    assert b"secret" not in text


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"01-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"01-{TRACE}-00f067aa0ba902b7-01-more", TRACE),
        (f"00-{TRACE}-00f067aa0ba902b7-01-more", ""),
        (f"01-{TRACE}-00f067aa0ba902b7-01more", ""),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE[1:]}-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE}-00f067aa0ba902b7", ""),
        (f"00-{TRACE}-00f067aa0ba902b7-01\n", ""),
        (f"01-{TRACE}-00f067aa0ba902b7-01-" + "a" * 1_000, ""),
        ("", ""),
    ],
)
def test_a_trace_is_told_if_its_header_is_valid(header: str, trace: str) -> None:
    assert access_log.trace_id(header.encode()) == trace


def test_lines_come_in_order_and_none_is_missing_at_the_end() -> None:
    there, here = os.pipe()
    series = counters.Counters()
    log = access_log.Log(here, series, clock=lambda: 5.0)
    for number in range(100):
        log(msgspec.structs.replace(RECORD, bytes_in=number))
    log.close()
    os.close(here)
    assert [json.loads(text)["bytes_in"] for text in read_all(there).splitlines()] == list(range(100))
    assert dropped(series) == {"full": 0, "failed": 0}


def test_a_reader_that_is_slow_costs_lines_and_nothing_else() -> None:
    there, here = os.pipe()
    series = counters.Counters()
    log = access_log.Log(here, series)
    given = 20_000
    for number in range(given):
        log(msgspec.structs.replace(RECORD, bytes_in=number))
    lost = dropped(series)["full"]
    # Far more than a pipe holds, and than is kept.
    assert lost > given - 2 * log_writer.MAX_BYTES // 512
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(read_all(there)))
    reader.start()
    log.close()
    os.close(here)
    reader.join()
    lines = [json.loads(text) for text in found[0].splitlines()]
    assert len(lines) == given - lost
    assert [told["bytes_in"] for told in lines] == sorted(told["bytes_in"] for told in lines)


@pytest.mark.parametrize("hold_open", [False, True])
def test_lines_that_cannot_be_written_are_counted(hold_open: bool) -> None:
    there, here = os.pipe()
    os.set_blocking(here, False)
    if not hold_open:
        os.close(there)
    series = counters.Counters()
    log = access_log.Log(here, series)
    given = 2_000
    for _ in range(given):
        log(RECORD)
    log.close()
    os.close(here)
    written = read_all(there).splitlines() if hold_open else []
    assert dropped(series)["full"] == 0
    # Of the write that a full pipe cut short, some lines are there whole and yet counted.
    assert given <= len(written) + dropped(series)["failed"] <= given + 15


def test_what_is_kept_is_bounded_by_what_it_holds() -> None:
    series = counters.Counters()
    there, here = os.pipe()
    log = access_log.Log(here, series)
    long: Any = msgspec.structs.replace(RECORD, target=b"/" + b"a" * log_writer.MAX_BYTES)
    log(long)
    assert dropped(series)["full"] == 1
    log.close()
    os.close(here)
    assert read_all(there) == b""


def test_logging_goes_the_same_way() -> None:
    there, here = os.pipe()
    series = counters.Counters()
    handler = log_writer.Handler(here, series)
    log = logging.Logger("test")
    log.addHandler(handler)
    log.warning("one %s", "lone \udcff surrogate")
    log.warning("%d", 2)
    handler.close()
    os.close(here)
    assert read_all(there).splitlines() == [b"one lone \\udcff surrogate", b"2"]
