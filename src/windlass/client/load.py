"""Load on a server: closed loops, and open loops of Poisson arrivals; an account of every request, and its latencies.

Used by tests, drills, the demo and `windlass bench`. Must never count a request twice or lose one: what was scheduled
is ok, rejected, expired, failed, broken or not sent.

    target = load.http("http://127.0.0.1:8000/v2/models/m/infer", body)
    report = load.open_loop(target, rate=500, seconds=10)           # a latency counts from the intended start
    report = load.closed_loop(target, connections=16, seconds=5)    # asks again when answered
    asking = load.Load(load.opened(target, rate=500)).start()       # in the background, until
    report = asking.stop()
"""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence

import uvloop

from windlass import errors
from windlass.client import generator, plan, processes, report

_PORTS = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}
FOREVER = float("inf")


def http(
    url: str,
    body: bytes | Sequence[bytes],
    *,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
    weights: Iterable[float] = (),
    method: str = "POST",
    ca: str = "",
) -> plan.Target:
    """Whom to ask what over HTTP/1.1: one body, or several, mixed by their `weights` (none: evenly).

    `url` may be https; its certificate is verified, against the PEM file `ca` where one is given.
    """
    parts = urllib.parse.urlsplit(url)
    bodies = [body] if isinstance(body, bytes) else list(body)
    shares = list(weights) or [1.0] * len(bodies)
    if parts.scheme not in ("http", "https") or not parts.hostname or len(shares) != len(bodies) or not bodies:
        raise errors.UsageError(f"{url} with {len(bodies)} bodies and {len(shares)} weights is no target.")
    path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    lines = {"host": parts.netloc, "content-type": content_type, **(headers or {})}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return plan.Target(
        host=parts.hostname,
        port=parts.port or _PORTS[parts.scheme],
        requests=tuple(
            plan.Request(f"{head}content-length: {len(each)}\r\n\r\n".encode() + each, share)
            for each, share in zip(bodies, shares, strict=True)
        ),
        tls=parts.scheme == "https",
        ca=ca,
    )


def opened(
    target: plan.Target,
    *,
    rate: float,
    seconds: float = FOREVER,
    warm_s: float = 0.0,
    timeout_s: float = 30.0,
    max_in_flight: int = 1_024,
    observe: bool = False,
    seed: int = 1,
) -> plan.Plan:
    """A plan of Poisson arrivals, `rate` a second, whatever the server does."""
    if rate <= 0:
        raise errors.UsageError(f"an open loop needs a rate above 0, not {rate}")
    return plan.Plan(
        target,
        seconds,
        rate=rate,
        warm_s=warm_s,
        timeout_s=timeout_s,
        max_in_flight=max_in_flight,
        observe=observe,
        seed=seed,
    )


def closed(
    target: plan.Target,
    *,
    connections: int,
    seconds: float = FOREVER,
    streams: int = 1,
    warm_s: float = 0.0,
    timeout_s: float = 30.0,
    observe: bool = False,
) -> plan.Plan:
    """A plan in which `connections` times `streams` requests are always under way (streams: gRPC only)."""
    return plan.Plan(
        target, seconds, connections=connections, streams=streams, warm_s=warm_s, timeout_s=timeout_s, observe=observe
    )


def open_loop(
    target: plan.Target,
    *,
    rate: float,
    seconds: float,
    warm_s: float = 0.0,
    timeout_s: float = 30.0,
    max_in_flight: int = 1_024,
    generators: int = 1,
    cores: Sequence[int] = (),
) -> report.Report:
    """`rate` requests a second for `seconds` after `warm_s`, from processes of their own; blocks."""
    planned = opened(
        target, rate=rate, seconds=seconds, warm_s=warm_s, timeout_s=timeout_s, max_in_flight=max_in_flight
    )
    return processes.run(planned, generators=generators, cores=cores)


def closed_loop(
    target: plan.Target,
    *,
    connections: int,
    seconds: float,
    streams: int = 1,
    warm_s: float = 0.0,
    timeout_s: float = 30.0,
    generators: int = 1,
    cores: Sequence[int] = (),
) -> report.Report:
    """Ask again as soon as answered, for `seconds` after `warm_s`, from processes of their own; blocks."""
    planned = closed(
        target, connections=connections, seconds=seconds, streams=streams, warm_s=warm_s, timeout_s=timeout_s
    )
    return processes.run(planned, generators=generators, cores=cores)


class Load:
    """A plan that is carried out in the background, in a thread with a loop of its own, until its end or `stop`."""

    def __init__(self, planned: plan.Plan) -> None:
        self._plan = planned
        self._stop = threading.Event()
        self._report = report.Report()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> Load:
        """Begin to ask."""
        self._thread.start()
        return self

    def stop(self) -> report.Report:
        """Let what is under way have its answer, and give the account."""
        self._stop.set()
        return self.wait()

    def wait(self) -> report.Report:
        """Until the plan's seconds are over; the account."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._report

    def _run(self) -> None:
        try:
            self._report = uvloop.run(generator.run(self._plan, self._stop.is_set))
        except BaseException as e:  # noqa: BLE001 - whoever waits for the report is told
            self._failure = e
