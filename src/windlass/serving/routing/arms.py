"""One loaded version behind an endpoint: its bytes in memory, its batcher and instance, its view, and its end.

Made by the pool, drawn by `router.py`. An arm is kept for as long as one routing of its endpoint uses it, so that a
change of shares loads nothing. Must never know the other arms of its endpoint.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from windlass import errors, plugins
from windlass.serving.metrics import counters
from windlass.serving.routing import loader
from windlass.serving.scheduling import batcher, instance, polling, stack
from windlass.types import contract, directory, inference, signature, spec

_OPTIONAL = " (optional)"
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
    """`UsageError` saying what differs unless all versions that get an endpoint's requests accept the same ones.

    The same input names, datatypes and ranks, the same fields for people, and outputs of the same names; a field may be
    optional in one, and one that is may be absent in another. `loaded` are the endpoint's arms in order, and its
    shadow's last. An arm without a share answers only who names it, and may differ.
    """
    asked = [(arm.name, one) for arm, one in zip(endpoint.arms, loaded, strict=False) if arm.share > 0]
    if endpoint.shadow is not None:
        asked.append((endpoint.shadow.arm.name, loaded[-1]))
    for name, other in asked[1:]:
        for what, one, two in _differences(_accepts(asked[0][1]), _accepts(other)):
            raise errors.UsageError(
                f"the arms of endpoint '{endpoint.name}' do not accept the same requests: "
                f"{what} is {one} in '{asked[0][0]}', {two} in '{name}'",
                hint="Replace one by the other at once, or serve them under two names.",
            )


def _differences(ours: dict[str, str], theirs: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """What one of two demands, and the other does not take in the same way."""
    for what in sorted(ours.keys() | theirs.keys()):
        one, two = ours.get(what, "absent"), theirs.get(what, "absent")
        spared = "absent" in (one, two) and (one.endswith(_OPTIONAL) or two.endswith(_OPTIONAL))
        if not spared and one.removesuffix(_OPTIONAL) != two.removesuffix(_OPTIONAL):
            yield what, one, two


def _accepts(loaded: loader.Loaded) -> dict[str, str]:
    manifest = loaded.session.package.manifest
    contracted: signature.Signature = manifest.signature
    found = {f"input '{t.name}'": f"{t.datatype} of rank {len(t.shape)}" for t in contracted.inputs}
    found |= {f"output '{t.name}'": "present" for t in contracted.outputs}
    found |= {f"field '{f.name}'": f"{f.kind}{'' if f.required else _OPTIONAL}" for f in manifest.fields}
    return found


def _contract(loaded: loader.Loaded, endpoint: spec.Endpoint) -> contract.Contract:
    limits = loaded.session.package.manifest.limits
    if not endpoint.max_batch or endpoint.max_batch >= limits.max_batch:
        return loaded.session.contract
    return contract.Contract(
        loaded.session.package.manifest.signature, max_rows=endpoint.max_batch, max_elements=limits.max_elements
    )
