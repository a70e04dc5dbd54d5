"""The account: what clients saw and what the server counted are the same, under any mix of ends."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import random
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

HEAD = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def _request(model: str, first: float, **more: Any) -> bytes:
    row = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [first, 1, 2, 3]}
    body = json.dumps({"inputs": [row], **more}).encode()
    return HEAD % (f"/v2/models/{model}/infer".encode(), len(body)) + body


ASKED = {
    "ok": _request("fast", 1.0),
    "slow": _request("slow", 1.0),
    "poison": _request("poison", 666.0),
    "beside": _request("poison", 1.0),
    "late": _request("slow", 1.0, parameters={"timeout": 2_000}),
    "bad": _request("fast", 1.0).replace(b"FP32", b"FP64"),
    "unknown": _request("fest", 1.0),
    "half": _request("fast", 1.0)[:-5],
    "left": _request("slow", 1.0),
}


class Client:
    """One connection that is opened again when it was broken off; counts what it saw."""

    def __init__(self, port: int, seen: collections.Counter[str]) -> None:
        self._port = port
        self._seen = seen
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, kind: str) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(ASKED[kind])
        await writer.drain()
        if kind in ("half", "left"):
            # Long enough for the server to have read it, short enough for it not to have answered.
            await asyncio.sleep(0.02)
            await self.close()
            self._seen["gone"] += 1
            return
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        self._seen[f"{kind} {head.split()[1].decode()}"] += 1
        assert kind != "beside" or b'"data":[1.0,1.0,2.0,3.0]' in body

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            with contextlib.suppress(ConnectionError):
                await self._streams[1].wait_closed()
            self._streams = None


async def _load(port: int, clients: int, each: int, seed: int) -> collections.Counter[str]:
    seen: collections.Counter[str] = collections.Counter()

    async def one(number: int) -> None:
        chance = random.Random(seed * 1_000 + number)
        client = Client(port, seen)
        for _ in range(each):
            await client.ask(chance.choice(sorted(ASKED)))
        await client.close()

    await asyncio.gather(*(one(number) for number in range(clients)))
    return seen


@pytest.mark.promise("P-35")
@pytest.mark.promise("P-36e")
def test_clients_and_server_count_the_same(start_server: Callable[..., Any], packages: Any) -> None:
    clients, each = 12, 40
    server = start_server(
        packages.echo("fast"),
        packages.echo("slow", run_ms=60),
        packages.echo("poison", fail_above=100.0, run_ms=2),
    )
    seen = asyncio.run(_load(server.port, clients, each, 1))
    deadline = time.monotonic() + 10
    while server.metrics()[("windlass_in_flight",)] and time.monotonic() < deadline:
        time.sleep(0.05)
    total = clients * each
    assert sum(seen.values()) == total
    by_kind = {kind: sum(n for k, n in seen.items() if k.split()[0] == kind) for kind in ASKED}
    by_status = collections.Counter({k: n for k, n in seen.items() if k != "gone"})
    assert set(by_status) <= {
        "ok 200",
        "slow 200",
        "poison 500",
        "beside 200",
        "late 503",
        "bad 400",
        "unknown 404",
    }
    found = server.outcomes()
    assert found["ok"] == by_kind["ok"] + by_kind["slow"] + by_kind["beside"]
    assert found["failed"] == by_kind["poison"]
    # Behind another's run there is no hope for the late ones, and they are told so at once.
    hopeless = by_kind["late"] - found["expired"]
    assert hopeless >= 0
    assert found["rejected"] == by_kind["bad"] + hopeless
    assert found["refused"] == by_kind["bad"] + by_kind["unknown"] + hopeless
    assert found["cancelled"] == seen["gone"]
    # Everything once: what was counted adds up to what was asked.
    ended = sum(found[k] for k in ("ok", "failed", "expired", "cancelled", "refused"))
    assert ended == total
    metrics = server.metrics()
    assert metrics[("windlass_in_flight",)] == 0
    assert all(value == 0 for key, value in metrics.items() if key[0] == "windlass_queued")


@pytest.mark.promise("P-33")
def test_an_expired_request_never_reaches_the_model(start_server: Callable[..., Any], packages: Any) -> None:
    server = start_server(packages.echo("slow", run_ms=500))
    ask = f"{server.url}/v2/models/slow/infer"
    row = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 2, 3]}

    async def drill() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=20) as client:
            first = asyncio.create_task(client.post(ask, json={"inputs": [row]}))
            await asyncio.sleep(0.15)
            late = [client.post(ask, json={"inputs": [row], "parameters": {"timeout": 20_000}}) for _ in range(5)]
            answers = await asyncio.gather(*late)
            # Their time is up before the run that they waited behind.
            assert not first.done()
            return [await first, *answers]

    first, *late = asyncio.run(drill())
    assert first.status_code == 200
    assert [a.status_code for a in late] == [503] * 5
    assert all(int(a.headers["retry-after"]) >= 1 for a in late)
    stats = httpx.get(f"{server.url}/v2/models/slow/stats").json()["model_stats"][0]
    assert (int(stats["inference_count"]), int(stats["execution_count"])) == (1, 1)
