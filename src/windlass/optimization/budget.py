"""What a person asks of an optimized form: how much worse it may answer, and what it may cost.

Read from the command line's texts, held by a study's `Job`, asked by `search` of every candidate. Must never measure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal, get_args

import msgspec

from windlass import errors
from windlass.types import refs

Goal = Literal["latency", "throughput", "size", "memory"]

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-zµ%]*)", re.ASCII | re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_MILLISECONDS = {"us": 0.001, "µs": 0.001, "ms": 1.0, "": 1.0, "s": 1000.0}
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


class Allowance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much worse a form may answer: in the metric's unit, or `relative` to the original's own figure."""

    value: float
    relative: bool

    def of(self, baseline: float) -> float:
        """The most drop in the metric's unit, for an original that reaches `baseline`."""
        return self.value * abs(baseline) if self.relative else self.value

    def __str__(self) -> str:
        shown = f"{self.value * (100 if self.relative else 1):.9f}".rstrip("0").rstrip(".")
        return f"{shown}%" if self.relative else shown


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked; None: no limit. `drop`: how much worse the answers may be; `latency_ms` of one run at the first
    batch; `size` bytes of the model's files; `memory` bytes that loading and running adds.

    `goal` is what the chosen form is best at within the rest. A goal of size or memory may cost time.
    """

    drop: Allowance | None = Allowance(0.005, relative=True)
    latency_ms: float | None = None
    size: int | None = None
    memory: int | None = None
    goal: Goal = "latency"


def parse(
    *,
    max_drop: str = "0.5%",
    max_latency: str | None = None,
    max_size: str | None = None,
    max_memory: str | None = None,
    goal: str = "latency",
) -> Budget:
    """The budget from what a person wrote; `UsageError` says what cannot be read and gives an example.

    Without a unit a latency is in milliseconds and a size in bytes. A drop of `any` sets no limit.
    """
    known: tuple[Goal, ...] = get_args(Goal)
    wanted = next((one for one in known if one == goal), None)
    if wanted is None:
        raise errors.UsageError(
            f"there is no goal '{goal[:40]}': it is one of {', '.join(known)}.", hint=refs.nearest(goal, known)
        )
    return Budget(
        drop=None if max_drop.strip().lower() == "any" else allowance(max_drop),
        latency_ms=None if max_latency is None else milliseconds(max_latency),
        size=None if max_size is None else byte_count(max_size, "size"),
        memory=None if max_memory is None else byte_count(max_memory, "memory"),
        goal=wanted,
    )


def allowance(text: str) -> Allowance:
    """`0.5%` of the original's figure, or `0.005` in the metric's unit."""
    value, unit = _split(text, "drop", "0.5% or 0.005")
    if unit not in ("", "%"):
        raise _unreadable(text, "drop", "0.5% or 0.005")
    if unit == "%" and value >= 100:
        raise errors.UsageError("a drop of 100% or more asks for nothing.", hint="Give for example: 0.5%")
    return Allowance(value / 100, relative=True) if unit == "%" else Allowance(value, relative=False)


def milliseconds(text: str) -> float:
    """`5ms`, `800us`, `0.2s`; more than 0."""
    return _positive(text, "latency", "5ms", _MILLISECONDS)


def seconds(text: str) -> float:
    """`10m`, `90s`, `1.5h`; more than 0. A number alone is seconds."""
    return _positive(text, "time", "10m", _SECONDS)


def byte_count(text: str, what: str = "size") -> int:
    """`20MB` (a million bytes each), `16MiB`, or bytes; at least 1."""
    return max(1, int(_positive(text, what, "20MB", _BYTES)))


def _positive(text: str, what: str, example: str, units: Mapping[str, float]) -> float:
    value, unit = _split(text, what, example)
    if unit not in units:
        raise _unreadable(text, what, example)
    found = value * units[unit]
    if not (0 < found < 1e18):
        raise errors.UsageError(f"a {what} of '{text.strip()[:40]}' is no limit.", hint=f"Give for example: {example}")
    return found


def _split(text: str, what: str, example: str) -> tuple[float, str]:
    found = _NUMBER.fullmatch(text.strip())
    if found is None or not math.isfinite(float(found[1])):
        raise _unreadable(text, what, example)
    return float(found[1]), found[2].lower()


def _unreadable(text: str, what: str, example: str) -> errors.UsageError:
    return errors.UsageError(f"'{text[:40]}' cannot be read as a {what}.", hint=f"Give for example: {example}")
