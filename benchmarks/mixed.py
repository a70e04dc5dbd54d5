"""S7: short and long texts at one server, against one that knows nothing of lengths.

Called by `bench.py`. The shape-blind server is ours too, with the same model: all it is sent has been padded to the
longest by its clients, as one writes it for a server whose batches need one shape.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Mapping

import load
import models
import numpy as np
import ours
import servers
from bars import Bar, Run, number, rounds, spread, table

from windlass.client import histogram, plan, report
from windlass.client import load as asking

SHORT, LONG = 16, 512
LONG_SHARE = 0.1
_LOAD = 0.7
# Three rounds of this many have what a 99th percentile needs; where that would take too long, they have not.
_ANSWERS = 360
_LONGEST_S = 60.0

METHOD = (
    f"**S7**: {SHORT} tokens ({1 - LONG_SHARE:.0%}) and {LONG} tokens ({LONG_SHARE:.0%}), Poisson arrivals at 70 % of "
    "the shape-blind server's measured capacity, the same for both; the first two of MiniLM-L6's six layers with their "
    "real weights, so that 1,000 answers are had in time. The shape-blind server is the same one, to which clients "
    f"send everything padded to {LONG} tokens: one shape. Both run at the same time, a core each, and change cores "
    "from round to round; the p99 is that of all rounds together; neither may refuse (`max_queue_ms` is a minute). "
    "Apart from that, ours at 70 % of its own capacity."
)


class Scenario:
    """Both servers on either core."""

    def __init__(self) -> None:
        first = ours.subject("lengths", max_queue_s=60)
        self._subjects = {
            core: dataclasses.replace(first, server=dataclasses.replace(first.server, cores=(core,)))
            for core in (load.SERVER_CORE, load.LOAD_CORE)
        }
        row = models.tokens(SHORT)
        padded = {name: _padded(value) for name, value in row.items()}
        self._right = first.expected
        if not np.allclose(ours.answer(first.onnx, padded), self._right, atol=1e-4):
            raise SystemExit("benchmarks: padding changes what the model answers")
        long = models.tokens(LONG)
        self._right_long = ours.answer(first.onnx, long)
        self._short, self._padded, self._long = (load.binary_request(each) for each in (row, padded, long))
        self._turn = 0

    def measure(self, seconds: float) -> Run:
        """One round."""
        self._turn += 1
        ours_core, blind_core = (load.SERVER_CORE, load.LOAD_CORE)[:: 1 if self._turn % 2 else -1]
        aware, blind = self._subjects[ours_core], self._subjects[blind_core]
        with aware.running() as first, blind.running() as second:
            for alive, request in ((first, self._short), (second, self._padded)):
                self._check(alive, request.along(aware.server.headers), self._right)
                self._check(alive, self._long.along(aware.server.headers), self._right_long)
            capacity = self._capacity(blind, second, {"long": self._long}, seconds, blind_core)
            rate = _LOAD * capacity
            sent = {"short": self._short, "long": self._long}
            parts = [
                (aware, first, sent, ours_core),
                (blind, second, {**sent, "short": self._padded}, blind_core),
            ]
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                both = [pool.submit(_mixed, *part, rate) for part in parts]
                found = [one.result() for one in both]
            own = self._capacity(aware, first, sent, seconds, ours_core)
            alone = _mixed(aware, first, sent, ours_core, _LOAD * own)
        return {
            "capacity": {"aware": own, "blind": capacity},
            "aware": found[0],
            "blind": found[1],
            "own": alone,
        }

    def _check(self, alive: servers.Running, request: load.Request, right: np.ndarray) -> None:
        if not np.allclose(load.ask(alive.url, request), right, rtol=1e-3, atol=1e-4):
            raise SystemExit("benchmarks: a text is answered wrongly")

    def _capacity(
        self, subject: ours.Subject, alive: servers.Running, sent: Mapping[str, load.Request], seconds: float, core: int
    ) -> float:
        """Answers a second of a closed loop with the mix."""
        found = asking.closed_loop(
            _target(subject, alive, sent), connections=8, seconds=seconds, warm_s=1, cores=(core,)
        )
        return found.throughput


def _padded(value: np.ndarray) -> np.ndarray:
    return np.pad(value, ((0, 0), (0, LONG - value.shape[1])))


def _target(subject: ours.Subject, alive: servers.Running, sent: Mapping[str, load.Request]) -> plan.Target:
    targets = {kind: subject.target(alive, request) for kind, request in sent.items()}
    requests = tuple(
        plan.Request(target.requests[0].data, LONG_SHARE if kind == "long" else 1 - LONG_SHARE)
        for kind, target in targets.items()
    )
    return plan.Target(targets["long"].host, targets["long"].port, requests)


def _mixed(
    subject: ours.Subject,
    alive: servers.Running,
    sent: Mapping[str, load.Request],
    core: int,
    rate: float,
) -> Run:
    """Two streams of Poisson arrivals, which together are one, so that the short ones' latencies are known apart."""

    def one(kind: str) -> report.Report:
        share = LONG_SHARE if kind == "long" else 1 - LONG_SHARE
        seconds = min(_ANSWERS / rate, _LONGEST_S)
        return asking.open_loop(
            subject.target(alive, sent[kind]), rate=share * rate, seconds=seconds, warm_s=1, cores=(core,)
        )

    with concurrent.futures.ThreadPoolExecutor(len(sent)) as pool:
        kinds = dict(zip(sent, pool.map(one, sent), strict=True))
    return {
        kind: {**load.account(found), "latency": {str(at): n for at, n in found.latency.counts.items()}}
        for kind, found in kinds.items()
    }


def _latency(run: Run, server: str, kinds: tuple[str, ...]) -> histogram.Histogram:
    """All rounds' latencies together."""
    return histogram.Histogram.merged(
        histogram.Histogram({int(at): count for at, count in one[server][kind]["latency"].items()})
        for one in rounds(run, "S7")
        for kind in kinds
    )


def _p99(run: Run, server: str, kinds: tuple[str, ...]) -> float | None:
    latency = _latency(run, server, kinds)
    return latency.quantile(0.99) if latency.enough(0.99) else None


_ALL = ("short", "long")


def _over(run: Run, kinds: tuple[str, ...]) -> list[float]:
    aware, blind = (_p99(run, server, kinds) for server in ("aware", "blind"))
    return [aware / blind] if aware and blind else []


BARS = (Bar("S7", "p99, 16 or 512 tokens: over a shape-blind server's", 0.6, "x", "<=", lambda run: _over(run, _ALL)),)


def section(run: Run) -> list[str]:
    """Latencies of all and of the short ones."""
    found = rounds(run, "S7")
    titles = {"aware": "Windlass", "blind": "shape-blind", "own": "Windlass, at 70 % of its own capacity"}
    rows = []
    for server, title in titles.items():
        offered = spread((sum(one[server][kind]["offered"] for kind in _ALL) for one in found), number)
        capacity = spread((one["capacity"].get(server, one["capacity"]["aware"]) for one in found), number)
        cells = [_ms(_latency(run, server, kinds), q) for kinds in (_ALL, ("short",)) for q in (0.5, 0.99)]
        rows.append([title, capacity, offered, *cells])
    heads = ["server", "capacity/s", "offered/s", "p50, ms", "p99, ms", "p50 of the short, ms", "p99 of the short, ms"]
    return ["", "### Mixed lengths", "", *table(heads, rows)]


def _ms(latency: histogram.Histogram, q: float) -> str:
    if not latency.enough(q):
        return "-"
    ratio = latency.quantile(q)
    return number(1e3 * ratio)
