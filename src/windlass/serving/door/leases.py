"""Limits of a key that several workers keep together: whole units, lent to each worker by what it needs.

A unit is a place (concurrency), a request (quota) or one request of burst with its part of the rate. The supervisor's
`Lessor` lends them ten times a second; a worker's `limits.Allowances` spends them. Must never lend a unit that has not
come back: whatever the order and delay of messages, all workers together admit at most what one server would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeAlias

import msgspec

from windlass.serving.door import quotas
from windlass.types import spec

PERIOD_S = 0.1
Kind: TypeAlias = Literal["rate", "concurrency", "quota"]
# The target that tells a worker that a limit is gone.
FORGET = -1
KINDS: tuple[Kind, ...] = ("rate", "concurrency", "quota")


class Want(msgspec.Struct, frozen=True, array_like=True):
    """What a worker says of one limit: units it needs, and since it last said so, units it gave back and spent.

    `tokens` are the requests that the units given back had saved up.
    """

    wanted: float
    returned: int = 0
    tokens: float = 0.0
    spent: int = 0


class Share(msgspec.Struct, frozen=True, array_like=True):
    """What a worker is told of one limit: units it gets, with their tokens, and how many it should have.

    What it has above `target` it gives back as soon as they are free; `FORGET` takes the limit away. `gone`: nobody
    has any, nor will before the day ends.
    """

    given: int
    target: int
    tokens: float = 0.0
    gone: bool = False


def units(key: spec.Key, kind: Kind) -> int:
    """How many units a key's limit has; 0 where it has none. A rate has one for each request of its burst."""
    if kind == "rate":
        return (key.burst or max(1, round(key.rate))) if key.rate else 0
    return key.concurrency if kind == "concurrency" else key.quota


def share(limit: int, demands: Mapping[int, float]) -> dict[int, int]:
    """The units of a limit, divided among workers that need so many: all of them, and never more.

    Who needs little gets it, and the rest is divided equally; where all need more than there is, by their needs. The
    parts of a unit go to those who lack most of one, and of those to who has least.
    """
    needed = sum(demands.values())
    spare = max(0.0, limit - needed) / len(demands) if demands else 0.0
    scale = min(1.0, limit / needed) if needed else 0.0
    exact = {worker: demand * scale + spare for worker, demand in demands.items()}
    whole = {worker: int(value) for worker, value in exact.items()}
    left = limit - sum(whole.values())
    for worker in sorted(exact, key=lambda w: (whole[w] - exact[w], whole[w]))[:left]:
        whole[worker] += 1
    return whole


class _Pool:
    """One limit of one key: who holds how many units. What is free saves up tokens as it would in a worker."""

    __slots__ = ("_at", "_per_unit", "_told", "_tokens", "held", "limit", "wanted")

    def __init__(self, limit: int, per_unit: float, now: float) -> None:
        self.limit = limit
        self.held: dict[int, int] = {}
        self.wanted: dict[int, float] = {}
        self._told: dict[int, tuple[int, bool]] = {}
        self._per_unit = per_unit
        self._tokens = float(limit)
        self._at = now

    @property
    def free(self) -> int:
        """Units that nobody holds; below 0 while a lower limit waits for what is to come back."""
        return self.limit - sum(self.held.values())

    def change(self, limit: int, per_unit: float, now: float) -> None:
        """Another limit from now on."""
        self._accrue(now)
        self.limit, self._per_unit = limit, per_unit

    def join(self, worker: int) -> None:
        self.held.setdefault(worker, 0)
        self.wanted.setdefault(worker, 0.0)

    def leave(self, worker: int, now: float) -> None:
        """A worker died: its units are free again, without tokens."""
        self._accrue(now)
        self.held.pop(worker, None)
        self.wanted.pop(worker, None)
        self._told.pop(worker, None)

    def note(self, worker: int, want: Want, now: float) -> None:
        """What a worker says."""
        if worker not in self.held:
            return
        self._accrue(now)
        self.wanted[worker] = want.wanted
        self.held[worker] -= want.returned + want.spent
        self._tokens += want.tokens

    def grants(self, now: float) -> dict[int, Share]:
        """What to tell whom: only those to whom something changes."""
        self._accrue(now)
        found: dict[int, Share] = {}
        gone = self.limit <= 0
        for worker, target in share(max(0, self.limit), self.wanted).items():
            free = self.free
            given = max(0, min(target - self.held[worker], free))
            if not given and self._told.get(worker) == (target, gone):
                continue
            tokens = self._tokens * given / free if given else 0.0
            self._tokens -= tokens
            self.held[worker] += given
            self._told[worker] = (target, gone)
            found[worker] = Share(given, target, tokens, gone)
        return found

    def _accrue(self, now: float) -> None:
        free = max(0, self.free)
        self._tokens = min(float(free), self._tokens + (now - self._at) * self._per_unit * free)
        self._at = now


class Lessor:
    """All limits of all keys, in the supervisor. `state` is a folder for the day's quota counts; empty: none."""

    def __init__(
        self, state: str = "", *, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._quotas = quotas.Counts(state, wall)
        self._keys: dict[str, spec.Key] = {}
        self._pools: dict[tuple[str, Kind], _Pool] = {}
        self._workers: set[int] = set()
        # Limits of which somebody said something since they were last divided.
        self._stirred: set[tuple[str, Kind]] = set()
        self._gone: set[tuple[str, Kind]] = set()

    def use(self, keys: Iterable[spec.Key]) -> None:
        """The keys from now on; limits that stay keep who holds what."""
        now = self._clock()
        self._keys = {key.id: key for key in keys}
        wanted = {(key.id, kind): units(key, kind) for key in self._keys.values() for kind in KINDS if units(key, kind)}
        for name in [name for name in self._pools if name not in wanted]:
            del self._pools[name]
            self._gone.add(name)
        for name, limit in wanted.items():
            per_unit = self._keys[name[0]].rate / limit if name[1] == "rate" else 0.0
            if name in self._pools:
                self._pools[name].change(limit, per_unit, now)
            else:
                self._pools[name] = _Pool(limit, per_unit, now)
            for worker in self._workers:
                self._pools[name].join(worker)
        self._recount()
        self._stirred = set(self._pools)

    def join(self, worker: int) -> None:
        """A worker begins: it gets an equal share of what nobody needs."""
        self._workers.add(worker)
        for pool in self._pools.values():
            pool.join(worker)
        self._stirred = set(self._pools)

    def leave(self, worker: int) -> None:
        """A worker has ended: what it held is free."""
        now = self._clock()
        self._workers.discard(worker)
        for pool in self._pools.values():
            pool.leave(worker, now)
        self._stirred = set(self._pools)

    def demand(self, worker: int, wants: Mapping[str, Want]) -> None:
        """What a worker says of its limits, by `name_of`."""
        now = self._clock()
        for text, want in wants.items():
            name = parse(text)
            pool = self._pools.get(name)
            if pool is None:
                continue
            if want.spent:
                self._quotas.spend(name[0], want.spent)
            pool.note(worker, want, now)
            self._stirred.add(name)
        self._recount()

    def grants(self) -> dict[int, dict[str, Share]]:
        """What to tell each worker now; those who need not be told anything are left out."""
        now = self._clock()
        if self._quotas.turn():
            self._recount()
            self._stirred.update(name for name in self._pools if name[1] == "quota")
        stirred, self._stirred = self._stirred, set()
        gone, self._gone = self._gone, set()
        forget = {name_of(*name): Share(0, FORGET) for name in gone}
        found = {worker: dict(forget) for worker in self._workers if forget}
        for name in stirred & self._pools.keys():
            for worker, one in self._pools[name].grants(now).items():
                found.setdefault(worker, {})[name_of(*name)] = one
        return found

    def save(self, *, last: bool = False) -> None:
        """Write the day's counts if they changed, at most once a second; `last`: whatever the time."""
        self._quotas.save(last=last)

    def _recount(self) -> None:
        """A quota's units are what is left of the day's."""
        for (key, kind), pool in self._pools.items():
            if kind == "quota":
                pool.limit = self._keys[key].quota - self._quotas.used(key)


def name_of(key: str, kind: Kind) -> str:
    """A limit's name in messages."""
    return f"{kind}:{key}"


def parse(name: str) -> tuple[str, Kind]:
    """The key and kind of a limit's name; an unknown kind is one that no pool has."""
    kind, _, key = name.partition(":")
    return key, kind  # type: ignore[return-value]  # looked up, never acted on
