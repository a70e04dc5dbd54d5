"""How many workers a server has, and how many threads each of them runs a model with: decided once, and said aloud.

Asked by the supervisor before the first model is loaded. Must never look at the machine: it is told.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import msgspec

from windlass.types import spec

# Above this, a copy of the weights in every worker is memory that nobody gets anything for.
LARGE_BYTES = 64 * 1024 * 1024
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Plan(msgspec.Struct, frozen=True):
    """`threads` 0: each model's own best number, measured when it is loaded. `reason` is a sentence for people."""

    workers: int
    threads: int
    reason: str

    def fitted(self, wanted: spec.Spec) -> spec.Spec:
        """A spec with the plan's threads where an endpoint leaves them open."""
        if not self.threads:
            return wanted
        endpoints = tuple(
            e if e.threads else msgspec.structs.replace(e, threads=self.threads) for e in wanted.endpoints
        )
        return msgspec.structs.replace(wanted, endpoints=endpoints)


def choose(cores: int, wanted: int, model_bytes: int, programs: int = 0) -> Plan:
    """The plan for a machine of `cores`, `wanted` workers (0: choose) and models of so many bytes together.

    `programs` of them run in processes of their own, each with the libraries that it needs.
    """
    cores = max(1, cores)
    size = f"{model_bytes / 1e6:.0f} MB"
    if wanted:
        workers, reason = wanted, f"{_count(wanted)}, as asked for"
        if wanted > 1 and model_bytes > LARGE_BYTES:
            reason += f"; each holds its own {size} of weights"
        if wanted > 1 and programs:
            reason += f"; each has its own {_count(programs, 'process', 'processes')} for models apart"
    elif cores == 1:
        workers, reason = 1, "1 worker, because there is one core"
    elif model_bytes > LARGE_BYTES:
        workers, reason = 1, f"1 worker with up to {cores} threads: each worker would hold its own {size} of weights"
    elif programs:
        each = _count(programs, "process", "processes")
        workers, reason = 1, f"1 worker: each worker would have its own {each} for models apart"
    else:
        workers, reason = cores, f"{_count(cores)}, one for each core"
    return Plan(workers, 0 if workers == 1 else max(1, cores // workers), reason)


def cores(quota: Path = _QUOTA) -> int:
    """The cores that this process may use: its affinity, and the quota of its control group where there is one."""
    allowed = len(os.sched_getaffinity(0))
    try:
        most, period = quota.read_text(encoding="ascii").split()
        return min(allowed, max(1, math.ceil(int(most) / int(period))))
    except (OSError, ValueError):
        return allowed


def _count(number: int, one: str = "worker", more: str = "workers") -> str:
    return f"1 {one}" if number == 1 else f"{number} {more}"
