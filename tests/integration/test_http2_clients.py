"""HTTP/2 as real clients speak it: curl, nghttp2's tools, and Node's, against a connection on a uvloop socket."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gzip
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from windlass import errors
from windlass.protocols import base
from windlass.serving.door import door, identity, routes
from windlass.serving.metrics import counters
from windlass.serving.transport import http2, http2_streams, listener
from windlass.types import directory, spec

NODE = """
const http2 = require('http2');
const client = http2.connect(process.argv[2]);
const body = Buffer.alloc(300000, 'n');
let open = 20, bytes = 0;
for (let i = 0; i < 20; i++) {
  const ask = client.request({':method': 'POST', ':path': '/echo'});
  ask.on('response', (headers) => { if (headers[':status'] !== 200) process.exit(3); });
  ask.on('data', (part) => { bytes += part.length; });
  ask.on('error', () => process.exit(4));
  ask.on('end', () => { if (--open === 0) { console.log(bytes); client.close(); } });
  ask.end(body);
}
"""


class Plain:
    """Answers with the body that it was asked."""

    name = "plain"

    def routes(self) -> tuple[base.Route, ...]:
        return (
            base.Route("POST", "/echo", "model:read", base.QueryRoute(lambda *a: base.Answer(a[2], b"text/plain"))),
            base.Route("GET", "/health", "health", base.QueryRoute(lambda *a: base.Answer(b'{"live":true}'))),
        )

    def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
        return base.Answer(error.message.encode(), status=400)


class Nothing:
    """No models."""

    def find(self, name: str, version: str = "") -> directory.ModelView:
        raise errors.NotFound("there are none")

    def states(self) -> tuple[directory.ModelState, ...]:
        return ()


class Echo:
    """A receiver that answers as gRPC does."""

    def __init__(self, context: listener.Listener, stream: http2_streams.Stream, head: Any) -> None:
        self.stream = stream
        self.body = b""

    def admit(self) -> None:
        pass

    def receive(self, data: bytes) -> None:
        self.body += data

    def complete(self, now: float, body: bytes | None = None) -> None:
        answer = self.body if body is None else body
        self.stream.respond(http2_streams.GRPC_HEAD, answer, http2_streams.GRPC_OK)

    def end(self, error: errors.WindlassError) -> None:
        self.stream.reset()


async def _serve(ports: concurrent.futures.Future[tuple[int, int]], done: threading.Event) -> None:
    loop = asyncio.get_running_loop()
    limits = spec.ServerLimits()
    table = routes.RouteTable([Plain()])
    entrance = door.Door(table, Nothing(), limits, hosts=(), trusted=identity.LOCAL)  # type: ignore[arg-type]
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        context = listener.Listener(loop, entrance, counters.Counters(), executor)
        rest = await loop.create_server(lambda: http2.Connection(context), "127.0.0.1", 0)
        grpc = await loop.create_server(lambda: http2.Connection(context, Echo), "127.0.0.1", 0)
        first, second = (one.sockets[0].getsockname()[1] for one in (rest, grpc))
        ports.set_result((first, second))
        await loop.run_in_executor(None, done.wait)
        rest.close()
        grpc.close()
        context.end(errors.Unavailable("the end"))
        await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, int]]:
    found: concurrent.futures.Future[tuple[int, int]] = concurrent.futures.Future()
    done = threading.Event()
    thread = threading.Thread(target=lambda: uvloop.run(_serve(found, done)))
    thread.start()
    yield found.result(10)
    done.set()
    thread.join(10)


def run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=30).stdout


def curl(ports: tuple[int, int], path: str, *options: str) -> bytes:
    return run("curl", "-sS", "--http2-prior-knowledge", *options, f"http://127.0.0.1:{ports[0]}{path}")


def test_curl_asks(ports: tuple[int, int]) -> None:
    assert curl(ports, "/health") == b'{"live":true}'
    head = curl(ports, "/health", "-I")
    assert head.startswith(b"HTTP/2 200")
    assert b"content-length: 13" in head


def test_curl_sends_and_receives_much(ports: tuple[int, int], tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(bytes(range(256)) * 20_000)
    data = f"@{sent}"
    assert curl(ports, "/echo", "--data-binary", data) == sent.read_bytes()
    assert curl(ports, "/echo", "--data-binary", data, "-H", "Expect: 100-continue") == sent.read_bytes()
    assert curl(ports, "/echo", "--data-binary", data, "--compressed") == sent.read_bytes()
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(sent.read_bytes(), 1))
    answer = curl(ports, "/echo", "--data-binary", f"@{packed}", "-H", "Content-Encoding: gzip")
    assert answer == sent.read_bytes()


def test_curl_is_refused_in_the_middle_of_its_body(ports: tuple[int, int], tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(bytes(3_000_000))
    answer = curl(ports, "/nowhere", "--data-binary", f"@{sent}", "-w", "%{http_code}")
    assert answer.endswith(b"400")


@pytest.mark.parametrize("tool", [tool for tool in ("nghttp", "h2load", "node") if shutil.which(tool)])
def test_other_clients(ports: tuple[int, int], tool: str, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"n" * 300_000)
    if tool == "nghttp":
        assert run("nghttp", "-d", str(body), "-p", "9", f"http://127.0.0.1:{ports[0]}/echo") == body.read_bytes()
    elif tool == "node":
        script = tmp_path / "ask.js"
        script.write_text(NODE)
        assert run("node", str(script), f"http://127.0.0.1:{ports[0]}") == b"6000000\n"
    else:
        for size in (100, 300_000):
            body.write_bytes(b"n" * size)
            said = run("h2load", "-n", "400", "-c", "4", "-m", "50", "-d", str(body), f"http://127.0.0.1:{ports[1]}/a")
            assert re.search(rb"400 succeeded, 0 failed, 0 errored", said), said
