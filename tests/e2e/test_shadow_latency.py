"""What a shadow costs those who are answered: their p99 at half of the server's capacity, with it and without."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from windlass.client import control, load
from windlass.types import spec

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 30], "datatype": "FP32", "data": [0.5] * 30}]}).encode()
WINDOWS = 8


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_the_p99_of_the_answered_stays(
    packages: Any, start_server: Callable[..., Any], tmp_path: Path, record: Callable[[str, int], Any]
) -> None:
    """Windows with and without a shadow take turns on one server, so that the machine's moods fall on both."""
    arm = packages.mlp("m").arms[0]
    mirrored = msgspec.structs.replace(arm, id="shadow")
    endpoint = spec.Endpoint("m", (arm,), threads=1, shadow=spec.Shadow(mirrored, share=0))
    server = start_server(endpoint, state=str(tmp_path), workers=1)
    target = load.http(f"{server.url}/v2/models/m/infer", BODY)
    rate = load.closed_loop(target, connections=32, seconds=3, warm_s=1).throughput / 2
    found: dict[int, list[float]] = {0: [], 100: []}
    told = control.Control(server.control)
    for window in range(2 * WINDOWS):
        share = (0, 100, 100, 0)[window % 4]
        shadow = spec.Shadow(mirrored, share=share)
        told.apply(
            msgspec.structs.replace(
                server.wanted, generation=window + 2, endpoints=(msgspec.structs.replace(endpoint, shadow=shadow),)
            )
        )
        report = load.open_loop(target, rate=rate, seconds=5, warm_s=0.5)
        assert report.lost == 0
        found[share].append(report.quantile(0.99))
    told.close()
    shadowed, alone = statistics.median(found[100]), statistics.median(found[0])
    record("shadow_latency", 1).finish(rate=rate, alone_p99_s=alone, shadowed_p99_s=shadowed, part=shadowed / alone)
    assert shadowed <= 1.1 * alone, found
