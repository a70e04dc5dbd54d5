"""No request that the limits let in costs more to read than is declared here, for all that a search could find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from windlass.types import manifest

SEARCH = Path(__file__).with_name("worst_requests.py")
# What reading one byte of a body may cost, whatever it is: twice what the hardest known request takes on one core of
# 2.5 GHz. A body has at most 16 MiB by default, so 4 s and 800 MiB at worst, and no sentence repeats the request.
CPU_S_PER_BYTE = 0.25e-6
MEMORY_PER_BYTE = 50
# Measuring is not finer than this.
CPU_S = 0.05
MEMORY = 4 << 20


def search(size: int, seconds: float) -> list[dict[str, Any]]:
    line = [sys.executable, str(SEARCH), str(size), str(seconds), "1"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found: list[dict[str, Any]]) -> None:
    assert len(found) > 25
    assert {"accepted", "refused"} == {one["outcome"] for one in found}
    for one in found:
        assert one["cpu"] <= CPU_S + CPU_S_PER_BYTE * one["size"], one
        assert one["memory"] <= MEMORY + MEMORY_PER_BYTE * one["size"], one


@pytest.mark.promise("P-36d")
@pytest.mark.threat("V8")
def test_the_worst_request_of_a_megabyte_is_bounded() -> None:
    check(search(1_000_000, 2.0))


@pytest.mark.soak
@pytest.mark.promise("P-36d")
def test_the_worst_request_of_all_is_bounded() -> None:
    check(search(manifest.Limits().max_body, 300.0))
