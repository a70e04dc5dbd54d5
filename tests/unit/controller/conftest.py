"""What the controller's tests share: a registry in a folder, the memory target, a clock that is set by hand."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from windlass.controller import acting, deployments, feedback, lead, loop
from windlass.packaging import archive
from windlass.records import deployments as stored
from windlass.records import rollouts
from windlass.registry import registry as registries
from windlass.storage import blobs, database
from windlass.targets import memory
from windlass.types import deployment, evidence, manifest, signature

CANARY = deployment.Strategy("canary", {"steps": [10.0, 50.0], "step_s": 10.0, "min_s": 20.0, "max_s": 600.0})


def package(content: str) -> archive.Package:
    data: dict[str, bytes] = {}

    def blob(value: bytes) -> manifest.BlobRef:
        ref = manifest.BlobRef(blobs.digest_of(value), len(value))
        data[ref.digest] = value
        return ref

    tensor = signature.TensorSpec("x", "FP32", ("batch", 4))
    value = manifest.Manifest(
        name="m",
        kind="model",
        signature=signature.Signature(inputs=(tensor,), outputs=(msgspec.structs.replace(tensor, name="y"),)),
        model=manifest.ModelSpec(runtime="echo", blobs={"model.bin": blob(content.encode())}),
        golden=manifest.Golden(inputs=blob(b"in"), outputs=blob(b"out"), rtol=1e-3, atol=1e-5),
        lineage=manifest.Lineage(framework="test 1.0"),
    )
    return archive.in_memory(value, data)


class World:
    """A home, a target, and any number of controllers; `now` is everybody's time."""

    def __init__(self, folder: Path) -> None:
        self.now = 1_000.0
        self.url, store = f"sqlite:///{folder}/registry.db", str(folder / "blobs")
        self.registry = registries.Registry.open_at(self.url, store)
        self.rows = database.open_database(self.url)
        self.target = memory.Memory(self.clock)

    def clock(self) -> float:
        return self.now

    def leading(self, holder: str = "one") -> lead.Lead:
        return lead.Lead(self.rows, self.clock, holder=holder)

    def controller(self, leading: lead.Lead | None = None, target: Any = None, warm_s: float = 0.0) -> loop.Controller:
        leading = leading or self.leading()
        told = feedback.Feedback(self.rows, self.clock)
        hands = acting.Hands(leading, {"local": target or self.target}, told, self.clock)
        reconciler = deployments.Reconciler(self.rows, leading, self.registry, hands, self.clock, warm_s=warm_s)
        return loop.Controller(self.rows, leading, reconciler, self.clock)

    def release(self, content: str) -> deployment.Release:
        made = package(content)
        passed = (evidence.Evidence(made.digest, "parity", "passed", {"max_error": 0.0}),)
        pushed = self.registry.push(made, name="m", actor="ada", evidence=passed)
        return deployment.Release("m", pushed.version, made.digest, ref=f"m@{pushed.version}")

    def wish(self, release: deployment.Release, strategy: deployment.Strategy | None = None, **more: Any) -> None:
        desired = deployment.Desired("m", release, strategy or deployment.Strategy(), **more)
        with self.rows.write() as connection:
            stored.put(connection, desired, expected=None, actor="ada", reason="a reason", now=self.now)

    def order(self, **changes: Any) -> None:
        desired = msgspec.structs.replace(self.found().desired, **changes)
        with self.rows.write() as connection:
            stored.put(connection, desired, expected=None, actor="eve", reason="an order", now=self.now)

    def found(self) -> stored.Deployment:
        with self.rows.read() as connection:
            found = stored.get(connection, "m", removed=True)
        assert found is not None
        return found

    def status(self) -> deployment.Status:
        return self.found().status

    def history(self) -> tuple[rollouts.Rollout, ...]:
        with self.rows.read() as connection:
            return rollouts.of(connection, "m")

    def steps(self, identity: int) -> tuple[rollouts.Step, ...]:
        with self.rows.read() as connection:
            return rollouts.steps(connection, identity)

    def alias(self) -> int | None:
        events = self.registry.history("m", "production")
        return events[-1].to_version if events else None

    def traffic(self, requests: int, **bad: int) -> None:
        """So many requests by the shares in force; of an arm's (`v2`) so many failed."""
        counts = {}
        for arm, share in self.target.observe("m").shares.items():
            mine = round(requests * share / 100)
            failed = min(mine, bad.get(f"v{arm}", 0))
            latency = (0, mine - failed, *([0] * (len(memory.BOUNDS) - 1)))
            counts[arm] = deployment.Counts(admitted=mine, ok=mine - failed, failed=failed, latency=latency)
        self.target.count("m", counts)

    def go(
        self, controller: loop.Controller, seconds: float, *, each: float = 2.0, requests: int = 0, **bad: int
    ) -> None:
        """Let time pass, with traffic, and a look every few seconds."""
        end = self.now + seconds
        while self.now < end:
            self.now += each
            if requests:
                self.traffic(requests, **bad)
            controller.once()

    def close(self) -> None:
        self.registry.close()
        self.rows.close()


@pytest.fixture
def world() -> Iterator[World]:
    """In memory, if there is a folder in it: what is tested does not depend on the disk, and fsync is free there."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        made = World(Path(folder))
        yield made
        made.close()


@pytest.fixture
def live(world: World) -> Callable[[], deployment.Release]:
    """A first version that is live."""

    def live() -> deployment.Release:
        first = world.release("one")
        world.wish(first)
        world.go(world.controller(), 10)
        assert world.status().live == first
        return first

    return live
