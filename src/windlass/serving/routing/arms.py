"""One loaded version behind an endpoint: its bytes in memory, its batcher and instance, its view, and its end.

Made by the pool, drawn by `router.py`. An arm is kept for as long as one routing of its endpoint uses it, so that a
change of shares loads nothing. Must never know the other arms of its endpoint.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import msgspec

from windlass import errors, plugins
from windlass.serving.metrics import counters
from windlass.serving.routing import loader
from windlass.serving.scheduling import batcher, instance, polling, stack
from windlass.types import contract, directory, inference, signature, spec

_UNROUTED = {"sticky": "", "salt": "", "pins": (), "override": False, "shadow": None, "slow_ms": 0.0, "epoch": 0}


def parts(endpoint: spec.Endpoint) -> list[spec.Endpoint]:
    """Each version of an endpoint as if it were alone, without anything that routes: what a load needs to know.

    The arms in order, then the shadow; only the last has a `shadow`, itself. It runs on one thread, never on the loop.
    """
    every = endpoint.arms
    if len(every) == 1 and endpoint.shadow is None:
        # Nobody has to tell it from another.
        every = (msgspec.structs.replace(every[0], id=""),)
    found = [msgspec.structs.replace(endpoint, arms=(arm,), **_UNROUTED) for arm in every]
    if endpoint.shadow is not None:
        mirrored = msgspec.structs.replace(found[0], arms=(endpoint.shadow.arm,), shadow=endpoint.shadow)
        found.append(msgspec.structs.replace(mirrored, placement="thread", threads=1))
    return found


def identity(part: spec.Endpoint) -> spec.Endpoint:
    """Equal for parts that are the same in memory: the same bytes, by the same options, under the same version."""
    arm = spec.Arm(digest=part.arms[0].digest, version=part.arms[0].version)
    return msgspec.structs.replace(part, arms=(arm,), shadow=None if part.shadow is None else spec.Shadow(arm))


class Arm:
    """A version that answers; `endpoint` has this arm only.

    `uses` counts the routings that have it; it is closed when the last one is gone.
    """

    __slots__ = ("batch", "endpoint", "identity", "instance", "loaded", "uses", "view")

    def __init__(
        self,
        endpoint: spec.Endpoint,
        loaded: loader.Loaded,
        view: directory.ModelView,
        batch: batcher.Batcher,
        place: instance.Inline | instance.Threaded,
    ) -> None:
        self.endpoint = endpoint
        self.identity = identity(endpoint)
        self.loaded = loaded
        self.view = view
        self.batch = batch
        self.instance = place
        self.uses = directory.Lease()

    @property
    def variant(self) -> str:
        """What its runs are counted under: its id, if it was given one."""
        return self.endpoint.arms[0].id

    def describe(self) -> dict[str, Any]:
        """What is in force: batching, placement, measurements, limits; the wait now, and refusals of this process."""
        loaded = self.loaded
        return {
            "digest": loaded.digest,
            "placement": "process" if loaded.apart else "inline" if loaded.inline else "thread",
            "threads": loaded.threads,
            "preferred_batch": self.batch.preferred_rows,
            "measured_run_us": {str(n): round(s * 1e6, 1) for n, s in loaded.timing.seconds.items()},
            "max_batch": self.view.limits.max_batch,
            "max_queue_delay_ms": self.endpoint.max_queue_delay_ms,
            "max_queue_ms": None if math.isinf(longest := self.batch.longest_wait_s) else round(longest * 1e3, 3),
            "slo_p99_ms": self.endpoint.slo_p99_ms,
            "timeout_ms": self.endpoint.timeout_ms,
            "predicted_wait_ms": round(self.batch.predicted_wait_s() * 1e3, 3),
            "refused": dict(self.batch.refused),
            "load_s": round(loaded.seconds, 3),
        }

    def close(self, closed: Callable[[], None]) -> None:
        """Give the model back; `closed` is called once its memory is free."""
        self.instance.close(closed)


def place(loop: asyncio.AbstractEventLoop, loaded: loader.Loaded) -> instance.Inline | instance.Threaded:
    """Where the model runs: on the loop or on a thread of its own, which waits for a process that is apart."""
    model = loaded.session.model
    return instance.Inline(model) if loaded.inline else instance.Threaded(loop, model)


def prepare(
    loop: asyncio.AbstractEventLoop,
    series: counters.Counters,
    poller: polling.Poller,
    endpoint: spec.Endpoint,
    loaded: loader.Loaded,
) -> Arm:
    """The arm of a loaded version; `endpoint` has this arm only."""
    manifest = loaded.session.package.manifest
    best = loaded.timing.best_rows
    plan = batcher.Plan(
        max_rows=min(best, endpoint.max_batch) if endpoint.max_batch else best,
        max_queue=endpoint.max_queue or max(1_024, 32 * best),
        delay_s=endpoint.max_queue_delay_ms / 1000,
        most_rows=endpoint.max_batch or manifest.limits.max_batch,
        max_queue_s=endpoint.max_queue_ms / 1000,
        slo_p99_s=endpoint.slo_p99_ms / 1000,
        timing=loaded.timing,
    )
    where = place(loop, loaded)
    batch = batcher.Batcher(
        loop,
        where,
        plan,
        manifest.signature,
        series.runs_of(endpoint.name, loaded.version, endpoint.arms[0].id),
        loaded.version,
        answered_one=poller.answered if loaded.inline else None,
    )
    infer = stack.compose(loop, batch.submit, timeout_s=endpoint.timeout_ms / 1000, timed=not loaded.inline)
    view = msgspec.structs.replace(view_of(endpoint, loaded, infer), refuses=None if loaded.inline else batch.refuses)
    return Arm(endpoint, loaded, view, batch, where)


def view_of(endpoint: spec.Endpoint, loaded: loader.Loaded, infer: inference.Infer) -> directory.ModelView:
    """What protocols may know of a loaded version, answered by `infer`."""
    manifest = loaded.session.package.manifest
    return directory.ModelView(
        name=endpoint.name,
        version=loaded.version,
        versions=(loaded.version,),
        platform=plugins.load("runtimes", manifest.model.runtime).platform,
        signature=manifest.signature,
        contract=_contract(loaded, endpoint),
        limits=manifest.limits,
        transformer=loaded.session.transformer,
        labels=manifest.labels,
        infer=infer,
        lease=directory.Lease(),
    )


def check_alike(endpoint: spec.Endpoint, loaded: list[loader.Loaded]) -> None:
    """`UsageError` saying what differs unless all versions of an endpoint accept the same requests.

    The same input names, datatypes and ranks, the same fields for people, and outputs of the same names. `loaded` are
    the endpoint's arms in order, and its shadow's last.
    """
    names = [arm.name for arm in endpoint.arms]
    if endpoint.shadow is not None:
        names.append(endpoint.shadow.arm.name)
    first = _accepts(loaded[0])
    for name, other in zip(names[1:], loaded[1:], strict=True):
        theirs = _accepts(other)
        for what in sorted(first.keys() | theirs.keys()):
            one, two = first.get(what, "absent"), theirs.get(what, "absent")
            if one != two:
                raise errors.UsageError(
                    f"the arms of endpoint '{endpoint.name}' do not accept the same requests: "
                    f"{what} is {one} in '{names[0]}', {two} in '{name}'",
                    hint="Serve a version with another interface under another name.",
                )


def _accepts(loaded: loader.Loaded) -> dict[str, str]:
    manifest = loaded.session.package.manifest
    contracted: signature.Signature = manifest.signature
    found = {f"input '{t.name}'": f"{t.datatype} of rank {len(t.shape)}" for t in contracted.inputs}
    found |= {f"output '{t.name}'": "present" for t in contracted.outputs}
    found |= {f"field '{f.name}'": f"{f.kind}{'' if f.required else ' (optional)'}" for f in manifest.fields}
    return found


def _contract(loaded: loader.Loaded, endpoint: spec.Endpoint) -> contract.Contract:
    limits = loaded.session.package.manifest.limits
    if not endpoint.max_batch or endpoint.max_batch >= limits.max_batch:
        return loaded.session.contract
    return contract.Contract(
        loaded.session.package.manifest.signature, max_rows=endpoint.max_batch, max_elements=limits.max_elements
    )
