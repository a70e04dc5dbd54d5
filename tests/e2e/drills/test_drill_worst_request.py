"""The dearest requests that a server takes, or reads before it refuses them: their memory and time are bounded."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

MAX_BODY = 1_000_000
TICK_S = 0.01
JSON = {"content-type": "application/json"}
# Of memory for each byte of a body, besides what the allocator keeps; of processor time for each million bytes.
MOST_MEMORY, SPARE, MOST_CPU_S = 64, 16_000_000, 0.5
Body = Callable[[int], bytes]
# Where each protocol has its numbers.
OPENINGS = {
    "/v2/models/fast/infer": ('{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[', "]}]}"),
    "/v1/models/fast:predict": ('{"instances":[', "]}"),
    "/predict/fast": ('{"inputs":{"x":[', "]}}"),
}
NUMBERS = {
    "digits": "1,",
    "long numbers": "-1.7976931348623157e+308,",
    "many decimals": "0." + "1234567890" * 30 + ",",
    "rows": "[1,2,3,4],",
    "pairs of brackets": "[],",
    "deep brackets": "[[[[[[1]]]]]],",
    "objects": '{"a":1},',
    "texts": '"a",',
    "escapes": '"\\u00e9\\ud83d\\ude00",',
}


def _filled(start: str, item: str, end: str) -> Body:
    """As many items as fit."""
    return lambda size: (start + (item * ((size - len(start) - len(end)) // len(item))).rstrip(",") + end).encode()


V2, V2_END = OPENINGS["/v2/models/fast/infer"]
ELSEWHERE: dict[str, Body] = {
    "inputs": _filled('{"inputs":[', '{"name":"x","datatype":"FP32","shape":[1],"data":[1]},', "]}"),
    "outputs": _filled(f'{V2}1,2,3,4]}}],"outputs":[', '{"name":"y"},', "]}"),
    "parameters": _filled(f'{V2}1,2,3,4]}}],"parameters":{{"a":[', "[[[[[[1]]]]]],", "]}}"),
    "same keys": _filled("{", '"a":1,', "}"),
    "shape": _filled('{"inputs":[{"name":"x","datatype":"FP32","data":[1],"shape":[', "1,", "]}]}"),
    "depth": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "one text": lambda size: b'{"inputs":"' + b"a" * (size - 13) + b'"}',
    "one number": lambda size: b'{"inputs":' + b"9" * (size - 11) + b"}",
    "no JSON": bytes,
}


class Meter:
    """What a worker's memory and processor time are, and how long others wait for a sign of life meanwhile."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._status = Path(f"/proc/{server.worker}/status")

    def _field(self, name: str) -> int:
        return int(self._status.read_text().partition(f"{name}:")[2].split()[0]) * 1_024

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self._server.worker}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def of(self, path: str, body: bytes) -> dict[str, float]:
        """One request: the bytes that it took at its peak, the seconds of processor, its status."""
        Path(f"/proc/{self._server.worker}/clear_refs").write_text("5")
        resting, cpu = self._field("VmRSS"), self._cpu_s()
        told = httpx.post(self._server.url + path, content=body, headers=JSON, timeout=60)
        return {
            "memory": self._field("VmHWM") - resting,
            "cpu_s": self._cpu_s() - cpu,
            "status": told.status_code,
            "size": len(body),
        }


def _check(name: str, found: dict[str, float]) -> None:
    assert found["status"] in (200, 400, 413), (name, found)
    assert found["memory"] <= MOST_MEMORY * found["size"] + SPARE, (name, found)
    assert found["cpu_s"] <= MOST_CPU_S * max(1.0, found["size"] / 1e6), (name, found)


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any], packages: Any) -> Any:
    return start_server(packages.echo("fast", max_body=8 * MAX_BODY), workers=1)


@pytest.mark.promise("P-36d")
@pytest.mark.parametrize("path", OPENINGS)
def test_no_request_is_dearer_than_its_size(server: Any, path: str) -> None:
    meter = Meter(server)
    start, end = OPENINGS[path]
    for name, make in {**{name: _filled(start, item, end) for name, item in NUMBERS.items()}, **ELSEWHERE}.items():
        _check(name, meter.of(path, make(MAX_BODY)))
    assert server.alive()


@pytest.mark.soak
@pytest.mark.promise("P-36d")
@pytest.mark.timeout(1_800)
def test_the_dearest_request_that_a_search_finds(server: Any, record: Callable[[str, int], Any]) -> None:
    """Mixtures of the shapes, each a change of the dearest so far; the others are answered all the time."""
    chance = random.Random(1)
    meter = Meter(server)
    slowest, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            started = time.monotonic()
            httpx.get(f"{server.url}/v2/health/live", timeout=30).raise_for_status()
            slowest[0] = max(slowest[0], time.monotonic() - started)

    watching = threading.Thread(target=watch)
    watching.start()
    items = [*NUMBERS.values(), "null,", "true,", "-0.0,", '"\\u0001",', "1" * 50 + ","]
    dearest: dict[str, tuple[float, list[str]]] = {"memory": (0.0, [items[0]]), "cpu_s": (0.0, [items[0]])}
    started = time.monotonic()
    try:
        while time.monotonic() - started < 600:
            aim = chance.choice(sorted(dearest))
            mixed = [*dearest[aim][1]]
            mixed.insert(chance.randrange(len(mixed) + 1), chance.choice(items))
            if len(mixed) > 8:
                mixed.pop(chance.randrange(len(mixed)))
            path, (start, end) = chance.choice(sorted(OPENINGS.items()))
            found = meter.of(path, _filled(start, "".join(mixed), end)(8 * MAX_BODY))
            _check(json.dumps([start, mixed]), found)
            value = found[aim] / found["size"]
            if value > dearest[aim][0]:
                dearest[aim] = (value, mixed)
    finally:
        over.set()
        watching.join()
    record("worst_request", 1).finish(
        memory_per_byte=dearest["memory"][0], cpu_s_per_mb=dearest["cpu_s"][0] * 1e6, slowest_probe_s=slowest[0]
    )
