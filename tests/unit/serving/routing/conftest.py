"""Echo packages in memory, a loader that opens them without measuring, and what of it is open.

Used by the tests of pools with several arms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import numpy as np
import pytest

from windlass.packaging import archive, build, draft, session
from windlass.serving.metrics import counters
from windlass.serving.routing import loader, pool
from windlass.serving.scheduling import measure
from windlass.types import inference, signature, spec


def package(name: str = "m", datatype: str = "FP32", width: int = 2, output: str = "y") -> archive.Package:
    """An echo package; each set of parameters has a digest of its own."""
    x = signature.TensorSpec("x", datatype, ("batch", width))
    y = msgspec.structs.replace(x, name=output)
    rows = np.ones((1, width), np.float32 if datatype == "FP32" else np.float64)
    drafted = draft.Draft(
        files={"echo.json": msgspec.json.encode({"inputs": [x], "outputs": [y]})},
        signature=signature.Signature((x,), (y,)),
        trials=(draft.Trial("ones", {"x": rows}, {output: rows}),),
        framework="echo",
        runtime="echo",
        max_batch=4,
    )
    return build.build(drafted, name=name)


class Packages:
    """Stands for `loader.load`. `open` are the parts in memory, by endpoint and version; `loads` counts them all."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.loads = 0
        self.failing: set[str] = set()
        self.apart: set[str] = set()
        self.by_digest: dict[str, archive.Package] = {}

    def arm(self, version: str, share: float = 100.0, ident: str = "", **kind: Any) -> spec.Arm:
        """An arm whose package is made for its version."""
        made = package(name=f"m{version}", **kind)
        self.by_digest[made.digest] = made
        return spec.Arm(made.digest, version, id=ident, share=share)

    def load(self, endpoint: spec.Endpoint, _verdicts: str, _trusted: tuple[str, ...]) -> loader.Loaded:
        """Open the package; `unload` is watched."""
        arm = endpoint.arms[0]
        if arm.version in self.failing:
            raise OSError("disk")
        opened = session.open(self.by_digest[arm.digest], check_golden=False)
        self.loads += 1
        what = f"{endpoint.name}@{arm.version}"
        self.open.append(what)
        opened.model.unload = lambda: self.open.remove(what)  # type: ignore[method-assign]
        inline = endpoint.placement != "thread"
        timing = measure.Timing({1: 1e-5}, 1)
        return loader.Loaded(opened, arm.digest, arm.version, 1, inline, timing, 0.1, arm.version in self.apart)


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Packages:
    """What the pool loads from."""
    found = Packages()
    monkeypatch.setattr(loader, "load", found.load)
    return found


@pytest.fixture
def drive() -> Callable[[Callable[[pool.Pool], Coroutine[Any, Any, None]]], None]:
    """Runs a drill with a pool of its own."""

    def run(drill: Callable[[pool.Pool], Coroutine[Any, Any, None]]) -> None:
        async def inside() -> None:
            models = pool.Pool(asyncio.get_running_loop(), counters.Counters())
            try:
                await drill(models)
            finally:
                models.close()

        asyncio.run(inside())

    return run


def request() -> inference.InferRequest:
    """One row."""
    return inference.InferRequest(model="m", inputs={"x": np.ones((1, 2), np.float32)})
