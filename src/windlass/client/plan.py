"""What a load generator is told: whom to ask what, how often, and for how long.

Made by `load` and `targets`, handed to generators in this process or in others as JSON. Must never hold anything but
values: a plan that was sent to another process means the same there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np

_CYCLE = 1_009
_CHUNK = 4_096


class Request(msgspec.Struct, frozen=True):
    """One request as bytes: all of an HTTP/1.1 request, or the message of a gRPC call. `weight` is its share."""

    data: bytes
    weight: float = 1.0


class Target(msgspec.Struct, frozen=True):
    """Whom to ask what. `headers` are a gRPC call's own; over HTTP they are in the requests.

    `tls`: verified against the system's authorities, or those in the PEM file `ca`.
    """

    host: str
    port: int
    requests: tuple[Request, ...]
    transport: Literal["http", "grpc"] = "http"
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    tls: bool = False
    ca: str = ""


class Plan(msgspec.Struct, frozen=True):
    """A load on one target.

    `rate` > 0: an open loop of Poisson arrivals, that many a second, whatever the server does; up to `max_in_flight`
    are under way at once. Else a closed loop: `connections` times `streams` requests are always under way. The first
    `warm_s` seconds are counted apart. An answer that takes longer than `timeout_s` is given up. With `observe` the
    answers' versions and batch sizes are read. `cores` are the processors to run on (none: any).
    """

    target: Target
    seconds: float
    rate: float = 0.0
    connections: int = 64
    streams: int = 1
    max_in_flight: int = 1_024
    warm_s: float = 0.0
    timeout_s: float = 30.0
    observe: bool = False
    seed: int = 1
    cores: tuple[int, ...] = ()


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Poisson arrivals: seconds since the start, the same for the same seed."""
    random = np.random.default_rng(seed)
    begun = 0.0
    while begun < seconds:
        chunk = begun + np.cumsum(random.exponential(1 / rate, _CHUNK))
        yield from itertools.takewhile(lambda at: at < seconds, chunk.tolist())
        begun = float(chunk[-1])


def cycle(requests: tuple[Request, ...], seed: int) -> Iterator[bytes]:
    """The requests without end, mixed by their weights, the same for the same seed."""
    if len(requests) == 1:
        return itertools.repeat(requests[0].data)
    weights = np.array([request.weight for request in requests])
    drawn = np.random.default_rng(seed).choice(len(requests), max(_CYCLE, len(requests)), p=weights / weights.sum())
    return itertools.cycle([requests[at].data for at in drawn.tolist()])
