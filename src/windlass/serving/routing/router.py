"""Draws the arm of each request with a known probability, and notes the draw.

Made by the pool, one immutable routing for each state of an endpoint; asked once per request, before its body is
decoded. Must never draw with another probability than it notes, or hold a lease itself: callers do.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from windlass import errors
from windlass.serving.routing import arms, exposures, firsts, shadow, sticky
from windlass.types import directory, refs, spec

OVERRIDE = b"x-windlass-arm"
# Shares are decimal fractions: their sum is 100 up to the rounding of floats.
_ROUNDING = 1e-6
Note = Callable[..., None]


def check(endpoint: spec.Endpoint) -> None:
    """`UsageError` if an endpoint of a spec cannot be served as it stands."""
    refs.check_name(endpoint.name)
    where = f"endpoint '{endpoint.name}'"
    names = [arm.name for arm in endpoint.arms]
    if not names:
        raise errors.UsageError(f"{where} has no arm")
    if endpoint.shadow is not None:
        names.append(endpoint.shadow.arm.name)
        mirrored = endpoint.shadow
        if not (0 <= mirrored.share <= 100 and mirrored.atol >= 0 and mirrored.rtol >= 0):
            raise errors.UsageError(f"the shadow of {where} has a share or tolerance that is out of range")
    if len(set(names)) != len(names):
        raise errors.UsageError(f"{where} has two arms of one name", hint="Give each an id of its own.")
    shares = [arm.share for arm in endpoint.arms]
    if not all(0 <= share <= 100 for share in shares):
        raise errors.UsageError(f"{where} has a share that is not from 0 to 100")
    if len(shares) > 1 and not math.isclose(sum(shares), 100, abs_tol=_ROUNDING):
        raise errors.UsageError(f"the shares of {where} sum to {sum(shares):g}, not 100")
    known = {arm.name for arm in endpoint.arms}
    for pin in endpoint.pins:
        if pin.arm not in known or not pin.header:
            raise errors.UsageError(f"{where} pins a header to '{pin.arm}': its arms are {_list(known)}")
    if endpoint.slow_ms < 0 or endpoint.epoch < 0:
        raise errors.UsageError(f"{where} has a negative slow_ms or epoch")
    if endpoint.sticky:
        if endpoint.sticky != sticky.CALLER and not endpoint.sticky.removeprefix(sticky.HEADER).strip(":"):
            raise errors.UsageError(f"{where} sticks to no header", hint="Write header:NAME, or caller.")
        if endpoint.sticky != sticky.CALLER and not endpoint.sticky.startswith(sticky.HEADER):
            raise errors.UsageError(
                f"{where} cannot stick to '{endpoint.sticky}'", hint="Write header:NAME, or caller."
            )
        if not endpoint.salt:
            raise errors.UsageError(f"{where} is sticky and has no salt", hint="Give it any secret text.")


def _list(names: set[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def layout(shares: Sequence[float]) -> tuple[list[int], list[float]]:
    """Arms side by side on [0, 1): their indices from left to right, and where each one ends.

    The first arm is the baseline and lies in the middle, the others alternate left and right of it, outermost first: a
    share that grows at the baseline's cost takes keys from it and moves nobody else. (With more than two others
    that holds for the last one on each side; one further out also shifts those on its side.) Arms without a share have
    no place.
    """
    order = [*range(1, len(shares), 2), 0, *reversed(range(2, len(shares), 2))]
    order = [index for index in order if shares[index] > 0]
    total = sum(shares)
    ends: list[float] = []
    left = 0.0
    # From both ends inwards: an outer arm's border depends on its own side's shares alone.
    right = 1.0
    middle = order.index(0) if 0 in order else len(order) - 1
    for index in order[:middle]:
        left += shares[index] / total
        ends.append(left)
    after: list[float] = []
    for index in reversed(order[middle + 1 :]):
        after.append(right)
        right -= shares[index] / total
    ends += [right, *reversed(after)]
    return order, ends


class Routing(msgspec.Struct, frozen=True):
    """All that one endpoint is in one state: its arms and what is asked of them. Replaced as a whole.

    `view` is what answers by default; `versions` are the views of requests that ask for a version.
    """

    endpoint: spec.Endpoint
    generation: int
    arms: tuple[arms.Arm, ...]
    shadow: shadow.Shadow | None
    view: directory.ModelView
    versions: dict[str, directory.ModelView]
    lease: directory.Lease


class Router:
    """The draw of one routing. `drawn` views count as evidence, `chosen` ones (generation 0) do not."""

    def __init__(
        self,
        endpoint: spec.Endpoint,
        drawn: Sequence[directory.ModelView],
        chosen: Mapping[str, directory.ModelView],
        note: Note | None,
        uniform: Callable[[], float],
    ) -> None:
        shares = [arm.share for arm in endpoint.arms] if len(endpoint.arms) > 1 else [100.0]
        order, self._ends = layout(shares)
        self._drawn = [(drawn[index], shares[index] / sum(shares)) for index in order]
        self._chosen = chosen
        self._note = note
        self._uniform = uniform
        self._pins = [(p.header.lower().encode(), p.value.encode(), p.arm) for p in endpoint.pins]
        self._override = endpoint.override
        self._sticks = sticky.Sticks(endpoint) if endpoint.sticky else None

    def route(self, headers: Mapping[bytes, bytes], caller: str, request_id: str) -> directory.ModelView:
        """The arm of a request: pinned, named, or drawn. `InvalidInput` naming the arms if it names none of them."""
        for header, value, arm in self._pins:
            if headers.get(header) == value:
                return self._choose(arm, "pin", caller, request_id)
        if self._override and OVERRIDE in headers:
            return self._choose(headers[OVERRIDE].decode("latin-1"), "override", caller, request_id)
        how: exposures.How = "draw"
        key = ""
        stuck = None if self._sticks is None else self._sticks.place(headers, caller)
        if stuck is None:
            place = self._uniform()
        else:
            how = "sticky"
            place, key = stuck
        view, probability = self._drawn[bisect.bisect_right(self._ends, place)]
        if self._note is not None:
            self._note(request_id, view.arm, probability, view.generation, how, key, caller)
        return view

    def _choose(self, arm: str, how: exposures.How, caller: str, request_id: str) -> directory.ModelView:
        view = self._chosen.get(arm)
        if view is None:
            raise errors.InvalidInput(f"there is no arm '{arm[:64]}': the arms are {_list(set(self._chosen))}")
        if self._note is not None:
            self._note(request_id, arm, 1.0, view.generation, how, "", caller)
        return view

    def chooser(self, arm: str) -> Callable[[Mapping[bytes, bytes], str, str], directory.ModelView]:
        """The route of requests that ask for the version of one arm: noted, not drawn."""

        def route(_headers: Mapping[bytes, bytes], caller: str, request_id: str) -> directory.ModelView:
            return self._choose(arm, "version", caller, request_id)

        return route


def describe(found: Routing) -> dict[str, Any]:
    """The shares in force of an endpoint that has several arms or a shadow."""
    if found.view.route is None:
        return {}
    endpoint = found.endpoint
    shares = [
        {"arm": arm.name, "version": arm.version, "digest": arm.digest, "share": arm.share} for arm in endpoint.arms
    ]
    said: dict[str, Any] = {"weights_generation": found.generation, "arms": shares}
    if found.shadow is not None and endpoint.shadow is not None:
        told = endpoint.shadow
        said["shadow"] = {"arm": told.arm.name, "version": told.arm.version, "digest": told.arm.digest}
        said["shadow"] |= {"share": told.share, "max_difference": found.shadow.max_difference}
    return said


def routing(
    endpoint: spec.Endpoint,
    generation: int,
    loaded: tuple[arms.Arm, ...],
    mirrored: shadow.Shadow | None,
    log: exposures.Exposures,
    told: firsts.Told,
    uniform: Callable[[], float] = random.random,
) -> Routing:
    """Put arms behind an endpoint. All of its views share one lease; the arms are held until it is retired."""
    lease = directory.Lease()
    versions = tuple(dict.fromkeys(arm.view.version for arm in loaded))
    for arm in loaded:
        arm.uses.hold()
    if mirrored is not None:
        mirrored.uses.hold()
    slow_s = endpoint.slow_ms / 1e3 or math.inf
    sticks = sticky.Sticks(endpoint) if endpoint.sticky and endpoint.epoch else None
    if len(loaded) == 1 and mirrored is None:
        view = msgspec.structs.replace(loaded[0].view, lease=lease, slow_s=slow_s)
        return Routing(endpoint, generation, loaded, None, view, {view.version: view}, lease)
    named = [
        msgspec.structs.replace(
            arm.view,
            arm=said.name,
            generation=generation,
            versions=versions,
            lease=lease,
            mirror=None if mirrored is None else mirrored.mirror_of(arm.loaded, said.name, endpoint.epoch),
            slow_s=slow_s,
            went_wrong=None
            if sticks is None
            else sticks.went_wrong(told.teller(endpoint.name, endpoint.epoch, said.name, generation)),
        )
        for said, arm in zip(endpoint.arms, loaded, strict=True)
    ]
    # What was chosen is no evidence.
    chosen = {view.arm: msgspec.structs.replace(view, generation=0, mirror=None, went_wrong=None) for view in named}
    router = Router(endpoint, named, chosen, log.journal(endpoint.name), uniform)
    by_version: dict[str, directory.ModelView] = {}
    for view in chosen.values():
        by_version.setdefault(view.version, msgspec.structs.replace(view, route=router.chooser(view.arm)))
    refusals = [arm.view.refuses for arm in loaded]

    def refuses(caller: str) -> errors.WindlassError | None:
        """Only when no arm has room: one that is full answers for itself, once it is drawn."""
        refusal = None
        for full in refusals:
            refusal = None if full is None else full(caller)
            if refusal is None:
                return None
        return refusal

    # What describes the endpoint is a version that answers for it.
    answers = next(index for index, arm in enumerate(endpoint.arms) if arm.share > 0 or len(named) == 1)
    plain = msgspec.structs.replace(named[answers], arm="", generation=0, mirror=None, went_wrong=None)
    view = msgspec.structs.replace(plain, refuses=refuses, route=router.route)
    return Routing(endpoint, generation, loaded, mirrored, view, by_version, lease)
