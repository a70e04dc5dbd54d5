"""Measures Windlass beside its peers and the machine's limits; writes RESULTS.md and the raw figures.

Started by `benchmarks/run` (`make bench`). Everything is a ratio within one run on one machine; rounds are interleaved
(A B A B), each server starts afresh in each round, on one core, the load comes from another.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import calls
import load
import mixed
import models
import numpy as np
import ours
import overload
import report
import scaling
import servers
import swaps

MODELS = ours.FOLDER / "models"
RESULTS = Path(__file__).parent / "results"
CLOSED_LOOPS = (1, 64)


@dataclass(frozen=True)
class Plan:
    """What a bar needs measured: servers on a model, each at these numbers of connections, and the limit at batches.

    A closed loop loses what is in flight when its time is up: a heavy model is given few connections and `longer`.
    """

    model: str
    servers: dict[str, tuple[int, ...]]
    limit: tuple[int, ...] = ()
    binary: bool = False
    longer: float = 1.0
    grpc: bool = False

    @property
    def name(self) -> str:
        """What its samples are kept under."""
        return f"{self.model}, gRPC" if self.grpc else self.model


PLANS: dict[str, tuple[Plan, ...]] = {
    "S1": (Plan("mlp", {"windlass": CLOSED_LOOPS, "fastapi": CLOSED_LOOPS}),),
    "S2": (Plan("mlp", dict.fromkeys(("windlass", "litserve", "mlserver", "bentoml"), (64,))),),
    "S4": (Plan("mlp", dict.fromkeys(("windlass", "fastapi"), (1,))),),
    "S5": (Plan("mlp", dict.fromkeys(("windlass", "grpcio-threads", "grpcio-asyncio"), (1, 64)), grpc=True),),
    "wide": (Plan("wide", dict.fromkeys(("windlass", "fastapi"), (64,)), limit=(1, 8, 32, 64)),),
    "S6": (
        Plan("minilm", {"windlass": (8,)}, limit=(1, 2, 4, 8), longer=3),
        Plan("resnet", {"windlass": (4,)}, limit=(1, 2, 4), binary=True, longer=3),
    ),
    "S10": (Plan("mlp", {"windlass": ()}),),
    "S11": (Plan("mlp", {"windlass": ()}),),
}
SCENARIOS = {"S7": mixed.Scenario, "S8": overload.Scenario, "S9": scaling.Scenario, "S12": swaps.Scenario}
BARS = [*PLANS, *SCENARIOS]


@dataclass
class Measured:
    """All that one run of the benchmarks has found."""

    samples: list[load.Sample] = field(default_factory=list)
    limits: list[dict[str, Any]] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    scenarios: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return dataclasses.asdict(self)


def merged(bars: list[str]) -> list[Plan]:
    """The plans of all bars, each model measured once with all that any bar needs of it."""
    found: dict[str, Plan] = {}
    for plan in (plan for bar in bars for plan in PLANS.get(bar, ())):
        known = found.get(plan.name, plan)
        asked = {
            server: tuple(sorted({*known.servers.get(server, ()), *plan.servers.get(server, ())}))
            for server in known.servers | plan.servers
        }
        found[plan.name] = dataclasses.replace(known, servers=asked, limit=known.limit or plan.limit)
    return list(found.values())


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Prepared:
    """A plan with its model's file, its request, the right answer, and the servers of it that are here."""

    plan: Plan
    onnx: Path
    request: load.Request
    expected: np.ndarray
    servers: tuple[servers.Server, ...]


def prepare(plan: Plan, missing: dict[str, str]) -> Prepared:
    """Export, package, and run Windlass once, so that no round starts with a model that is not known yet."""
    say(f"{plan.name}: preparing")
    model = models.MODELS[plan.model]
    onnx = models.export(model, MODELS)
    row = model.row()
    expected = ours.answer(onnx, row)
    if plan.grpc:
        request = calls.request(model.name, row)
    else:
        request = (load.binary_request if plan.binary else load.json_request)(row)
    here = []
    if plan.grpc and shutil.which("h2load") is None:
        missing["h2load"] = "it is Debian's nghttp2-client"
        return Prepared(plan, onnx, request, expected, ())
    for name in plan.servers:
        if name == "windlass":
            own = ours.server(model, *ours.package(model, onnx))
            here.append(ours.over_grpc(own) if plan.grpc else own)
            with servers.running(here[-1], onnx, request, expected):
                pass
        elif why := servers.why_missing(name):
            missing[name] = why
        else:
            here.append(servers.PEERS[name])
    return Prepared(plan, onnx, request, expected, tuple(here))


def measure_limit(prepared: Prepared, seconds: float, turn: int) -> dict[str, Any]:
    """onnxruntime alone, in a process on the server's core."""
    plan = prepared.plan
    each = seconds * plan.longer / len(plan.limit)
    program = ["taskset", "-c", str(load.SERVER_CORE), sys.executable, str(Path(__file__).parent / "limits.py")]
    done = subprocess.run(
        [*program, str(prepared.onnx), plan.model, str(each), *map(str, plan.limit)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {"model": plan.model, "round": turn, **json.loads(done.stdout)}


def measure_round(prepared: Prepared, seconds: float, turn: int, found: Measured) -> None:
    """One round: every server of the plan once, and the limit once."""
    plan = prepared.plan
    if plan.limit:
        say(f"round {turn}, {plan.name}: the limit")
        found.limits.append(measure_limit(prepared, seconds, turn))
    for server in prepared.servers:
        with servers.running(server, prepared.onnx, prepared.request, prepared.expected) as alive:
            # What an idle server weighs is read a moment after its first answer.
            time.sleep(1)
            start = {"server": server.name, "model": plan.name, "round": turn}
            found.starts.append({**start, "start_s": alive.start_s, "pss_mb": alive.pss_mb()})
            request = prepared.request.along(server.headers)
            for connections in plan.servers[server.name]:
                generator = calls.h2load if plan.grpc else load.wrk
                length = seconds * plan.longer
                sample = load.measure(alive, plan.name, request, connections, length, turn, generator)
                found.samples.append(sample)
                say(f"round {turn}, {plan.name}: {server.name} c={connections}: {sample.rate:,.0f}/s")


def measure_scenarios(scenarios: dict[str, Any], seconds: float, turn: int, found: Measured) -> None:
    """One round of what is more than a server under a closed loop."""
    for name, scenario in scenarios.items():
        say(f"round {turn}, {name}")
        one = {"round": turn, **scenario.measure(seconds)}
        found.scenarios.setdefault(name, []).append(one)


def machine() -> dict[str, Any]:
    """Where this was measured."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """What was measured: our commit, and each peer's libraries."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=servers.ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    found = {"windlass": f"{_installed(sys.executable, ['windlass', 'onnxruntime', 'numpy'])} ({commit})"}
    for name, server in servers.PEERS.items():
        peer = server.folder
        if peer not in found and not servers.why_missing(name):
            lines = (servers.ROOT / "benchmarks" / "peers" / peer / "requirements.txt").read_text().split()
            python = str(servers.ROOT / ".venvs" / peer / "bin" / "python")
            found[peer] = _installed(python, [line.partition("==")[0].partition("[")[0] for line in lines])
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split("\n")[0]
    h2load = subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return {**found, "wrk": wrk.partition(" Copyright")[0].strip(), "h2load": h2load}


def _installed(python: str, names: list[str]) -> str:
    program = "import importlib.metadata as m, sys; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    return subprocess.run([python, "-c", program, *names], capture_output=True, text=True, check=True).stdout.strip()


def keep(run: dict[str, Any]) -> None:
    """Write the raw figures, over those of the rounds before."""
    RESULTS.mkdir(exist_ok=True)
    stamp = run["date"].removesuffix(" UTC").replace(" ", "T").replace(":", "")
    (RESULTS / f"{stamp}.json").write_text(json.dumps(run, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BARS, default=BARS, help="the bars to measure")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (3 or more for a result)")
    parser.add_argument("--seconds", type=float, default=3, help="length of each measurement")
    parser.add_argument("--dry", action="store_true", help="print the report, write nothing")
    options = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        say("a server and its load need a core each: this machine has one")
        return 1
    about = {"date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"), "machine": machine()}
    about |= {"versions": versions(), "bars": options.only, "rounds": options.rounds, "seconds": options.seconds}
    found = Measured()
    plans = [prepare(plan, found.missing) for plan in merged(options.only)]
    scenarios: dict[str, Any] = {}
    for name in (name for name in SCENARIOS if name in options.only):
        say(f"{name}: preparing")
        scenarios[name] = SCENARIOS[name]()
    run: dict[str, Any] = {}
    for turn in range(1, options.rounds + 1):
        for prepared in plans:
            measure_round(prepared, options.seconds, turn, found)
        measure_scenarios(scenarios, options.seconds, turn, found)
        run = about | found.plain()
        if not options.dry:
            # After each round: what breaks a later one does not cost what was measured.
            keep(run)
    titles = {name: model.title for name, model in models.MODELS.items()}
    text, kept = report.write(run, titles | {"mlp, gRPC": f"{titles['mlp']}, gRPC"})
    if not options.dry:
        # What `registry_http.py`, the drills and `rollouts.py` measured stays.
        others = [(RESULTS / name).read_text().rstrip() for name in ("registry.md", "rollouts.md")]
        (RESULTS.parent / "RESULTS.md").write_text("\n\n".join([text.rstrip(), *others]) + "\n")
    print(text)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
