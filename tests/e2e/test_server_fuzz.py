"""Malformed requests by the thousand, at the level of HTTP and of bodies: refused, never a crash, never a leak."""

from __future__ import annotations

import json
import random
import re
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

# What a refusal may be. 500 is for faults of ours, so that fuzzing may not find any.
REFUSALS = {400, 401, 403, 404, 405, 408, 413, 415, 421, 429, 431, 501, 503}
PATHS = (
    "/v2/models/numbers/infer",
    "/v2/models/numbers/versions/1/infer",
    "/predict/numbers",
    "/v1/models/numbers:predict",
    "/v2/models/numbers",
    "/v2/repository/index",
    "/v2/models/stats",
    "/v2/logging",
    "/v2/trace/setting",
    "/v2",
    "/",
)
ROW = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
SEEDS: tuple[Any, ...] = (
    {"inputs": [ROW], "outputs": [{"name": "y", "parameters": {"binary_data": True}}], "parameters": {"timeout": 1}},
    {"inputs": {"x": [[1, 2, 3, 4]]}},
    {"instances": [[1, 2, 3, 4]], "signature_name": "serving_default"},
    {"inputs": [ROW], "id": "a", "outputs": [{"name": "y", "parameters": {"classification": 2}}]},
)
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 2**64, 10**400, 1e308, "", "x", "\0", "\ud800", [], {}, [[]], [None], {"": None},
    [[1, [2]]], "FP64", "BYTES", [1] * 300, "a" * 5_000, {"b64": "!!"}, {"binary_data_size": -1},
    {"binary_data_size": 2**63},
)  # fmt: skip
VERBS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PRI", "post", "G\0T", "")
LINES = (
    "Content-Length: 5", "Content-Length: -5", "Content-Length: 99999999999", "Content-Length: 1e3",
    "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked, chunked",
    "Expect: 100-continue", "Expect: x", "Connection: close", "Connection: upgrade\r\nUpgrade: websocket",
    "Content-Encoding: gzip",
    "Content-Encoding: deflate", "Accept-Encoding: gzip;q=, *", "Origin: null", "Host: a, b",
    "Authorization: Bearer \xff",
    "X-Request-Id: " + "z" * 200, "Inference-Header-Content-Length: 7", "Inference-Header-Content-Length: 0",
    "Inference-Header-Content-Length: -0", "Content-Type: text/csv", "Content-Type: \x01",
    "A" * 3_000 + ": b", " folded",
    ": empty", "no colon", "a: \x00", "a: b\nc: d", "Range: bytes=0-", "Cookie: a=b", "X: " + "y" * 17_000,
)  # fmt: skip


def _changed(value: Any, chance: random.Random) -> Any:
    """The value with one place in it replaced, removed, doubled or renamed."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        found = dict(value)
        key = chance.choice(list(found))
        step = chance.random()
        if step < 0.7:
            found[key] = _changed(found[key], chance)
        elif step < 0.85:
            del found[key]
        else:
            found[chance.choice(("x", "inputs", "", "shape", "data", "b64", "parameters"))] = chance.choice(ODD)
        return found
    if isinstance(value, list) and value and chance.random() < 0.8:
        found_list = list(value)
        where = chance.randrange(len(found_list))
        found_list[where : where + 1] = chance.choice(
            ([_changed(found_list[where], chance)], [], [found_list[where]] * 2, [chance.choice(ODD)])
        )
        return found_list
    return chance.choice(ODD)


def body_of(chance: random.Random) -> bytes:
    """A body: JSON that was changed, sometimes with its bytes changed too."""
    value = _changed(chance.choice(SEEDS), chance)
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    if chance.random() < 0.3 and text:
        at = chance.randrange(len(text))
        piece = chance.choice(
            (b"", b"\0", b"\xff", b'"', b"[" * 40, b"{", b"NaN", b"1e999", b",", b"\xed\xa0\x80", b"9" * 400)
        )
        text = text[:at] + piece + text[at + chance.randrange(3) :]
    return text


def request_of(chance: random.Random) -> bytes:
    """A whole request with something wrong in its head, its framing or its body."""
    body = body_of(chance)
    path = chance.choice(PATHS)
    if chance.random() < 0.3:
        at = chance.randrange(len(path) + 1)
        path = (
            path[:at]
            + chance.choice(("%", "%00", "%ff", "//", "/..", "?", "#", " ", "\x7f", "é", "a" * 9_000))
            + path[at:]
        )
    lines = ["Host: 127.0.0.1"] if chance.random() < 0.9 else []
    lines += chance.sample(LINES, chance.randrange(4))
    if chance.random() < 0.6:
        lines.append(f"Content-Length: {len(body)}")
    version = chance.choice(("HTTP/1.1",) * 8 + ("HTTP/1.0", "HTTP/2.0", "HTTP/9", ""))
    head = "\r\n".join((f"{chance.choice(('POST', *VERBS))} {path} {version}", *lines)).encode("latin-1", "replace")
    data = head + b"\r\n\r\n" + body
    if chance.random() < 0.2:
        at = chance.randrange(len(data))
        data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    return data


def _statuses(answers: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", answers)]


def _heads(server: Any, count: int, seed: int) -> Counter[int]:
    """Requests of any shape, each on a connection of its own."""
    chance = random.Random(seed)
    seen: Counter[int] = Counter()
    for _ in range(count):
        data = request_of(chance)
        with server.connect() as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                seen[0] += 1
                continue
            statuses = _statuses(server.read(connection))
        seen.update(statuses or [0])
    return seen


def _bodies(server: Any, count: int, seed: int) -> Counter[int]:
    """Bodies of any shape in good requests, many on one connection, answered in order."""
    chance = random.Random(seed)
    seen: Counter[int] = Counter()
    together = 40
    for _ in range(count // together):
        data = b""
        for number in range(together):
            body = body_of(chance)
            path = chance.choice(PATHS[:4])
            closing = "Connection: close\r\n" if number == together - 1 else ""
            kind = chance.choice(("application/json",) * 6 + ("text/csv", "text/plain", "image/png"))
            data += f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n{closing}".encode()
            data += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        statuses = _statuses(server.send(data))
        assert len(statuses) == together
        seen.update(statuses)
    return seen


def _drill(start_server: Callable[..., Any], packages: Any, heads: int, bodies: int) -> None:
    server = start_server(packages.echo("numbers"))
    # What is made once is made before the first look.
    _heads(server, 300, 1)
    _bodies(server, 1_000, 2)
    before = (server.rss(), server.descriptors(), server.threads())
    seen = _heads(server, heads, 3) + _bodies(server, bodies, 4)
    after = (server.rss(), server.descriptors(), server.threads())
    assert server.alive()
    assert set(seen) - {0, 100, 200} <= REFUSALS, seen
    assert seen[400] > bodies // 10
    assert seen[200] > 0
    assert after[0] - before[0] < 16 << 20
    assert after[1] <= before[1] + 2
    assert after[2] <= before[2] + 2
    log = (server.server._path.parent.parent / "log").read_text()
    assert "Traceback" not in log
    metrics = server.metrics()
    assert metrics[("windlass_in_flight",)] == 0
    assert all(value == 0 for key, value in metrics.items() if key[0] == "windlass_queued")


@pytest.mark.promise("P-36c")
@pytest.mark.promise("P-49")
@pytest.mark.threat("V8")
@pytest.mark.threat("V18")
def test_ten_thousand_malformed_requests(start_server: Callable[..., Any], packages: Any) -> None:
    _drill(start_server, packages, 2_500, 7_600)


@pytest.mark.soak
@pytest.mark.promise("P-36c")
@pytest.mark.promise("P-49")
def test_a_million_malformed_requests(start_server: Callable[..., Any], packages: Any) -> None:
    _drill(start_server, packages, 200_000, 800_000)


@pytest.mark.promise("P-36e")
def test_an_answer_is_the_same_alone_and_in_any_batch(start_server: Callable[..., Any], packages: Any) -> None:
    """Rows asked alone, then as parts of batches that other requests fill: the same numbers."""
    server = start_server(packages.mlp("m"))
    random_rows = np.random.default_rng(5).normal(size=(64, 30)).astype(np.float32)

    def asked(rows: np.ndarray[Any, Any], last: bool) -> bytes:
        row = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
        body = json.dumps({"inputs": [row]}).encode()
        lines = "Host: 127.0.0.1\r\nX-Server-Timing: 1\r\n" + ("Connection: close\r\n" if last else "")
        return f"POST /v2/models/m/infer HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def answers(sizes: list[int]) -> tuple[list[np.ndarray[Any, Any]], set[int]]:
        data, start = b"", 0
        for number, size in enumerate(sizes):
            data += asked(random_rows[start : start + size], number == len(sizes) - 1)
            start += size
        told = server.send(data)
        found = [json.loads(text)["outputs"][0] for text in re.findall(rb'\{"model_name".*?\]\}\]\}', told)]
        batches = {int(n) for n in re.findall(rb"batch;desc=(\d+)", told)}
        return [np.array(one["data"], np.float32).reshape(one["shape"]) for one in found], batches

    alone = np.concatenate([answers([1])[0][0]] + [answers([i, 1])[0][1] for i in range(1, 6)])
    for sizes in ([1] * 6, [2, 1, 3], [3, 3], [1, 2, 17], [32], [1] * 40, [17, 1, 2, 3]):
        found, batches = answers(sizes)
        assert [len(one) for one in found] == sizes
        np.testing.assert_allclose(np.concatenate(found)[:6], alone, rtol=1e-5, atol=1e-6)
        assert len(sizes) == 1 or max(batches) > max(sizes)
        assert max(batches) <= 32
