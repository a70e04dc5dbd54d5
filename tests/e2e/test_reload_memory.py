"""A model that is loaded and unloaded again and again: its memory is free each time, and nothing piles up."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from windlass.security import keys
from windlass.types import spec

PEPPER = "5a" * 32


def _rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _cycle(packages: Any, start_server: Callable[..., Any], cycles: int, settled: int) -> tuple[list[float], int, int]:
    """Resident MB of the worker after each cycle from `settled` on, and its threads before and after."""
    ident, text = keys.generate()
    key = spec.Key(
        ident, keys.hmac_of(text, bytes.fromhex(PEPPER)), scopes=("model:read", "model:predict", "model:load")
    )
    spare = packages.mlp("spare")
    server = start_server(keys=(key,), key_pepper=PEPPER, repository=(spare,), workers=1)
    (worker,) = httpx.get(f"{server.admin_url}/status").json()["workers"]
    pid = worker["pid"]
    sizes, threads = [], []
    row = {"inputs": [{"name": "x", "shape": [1, 30], "datatype": "FP32", "data": [0.5] * 30}]}
    with httpx.Client(base_url=server.url, headers={"x-api-key": text}, timeout=60) as client:
        for cycle in range(cycles):
            client.post("/v2/repository/models/spare/load").raise_for_status()
            client.post("/v2/models/spare/infer", json=row).raise_for_status()
            client.post("/v2/repository/models/spare/unload").raise_for_status()
            if cycle >= settled:
                sizes.append(_rss_mb(pid))
                threads.append(len(list(Path(f"/proc/{pid}/task").iterdir())))
    return sizes, threads[0], threads[-1]


def _slope(sizes: list[float]) -> float:
    """MB a cycle, by the medians of the first and the last third: one late release of memory does not count."""
    third = len(sizes) // 3
    first, last = statistics.median(sizes[:third]), statistics.median(sizes[-third:])
    return (last - first) / (len(sizes) - third)


@pytest.mark.promise("P-48")
def test_fifty_loads_leave_nothing_behind(packages: Any, start_server: Callable[..., Any]) -> None:
    sizes, before, after = _cycle(packages, start_server, 50, 20)
    assert _slope(sizes) <= 0.1, np.round(sizes, 1).tolist()
    assert after <= before


@pytest.mark.soak
@pytest.mark.promise("P-48")
@pytest.mark.timeout(3_600)
def test_a_thousand_loads_leave_nothing_behind(
    packages: Any, start_server: Callable[..., Any], record: Callable[[str, int], Any]
) -> None:
    sizes, before, after = _cycle(packages, start_server, 1_000, 50)
    figures = {"slope_mb": _slope(sizes), "first_mb": sizes[0], "last_mb": sizes[-1], "most_mb": max(sizes)}
    record("reloads", 1).finish(threads=[before, after], **figures)
    assert _slope(sizes) <= 0.1, np.round(sizes[::50], 1).tolist()
    assert after <= before
