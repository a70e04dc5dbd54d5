"""What a key may ask for: a rate, requests under way, requests a day. Kept by one worker with the units it was lent.

Asked by the door for each request to a model, and told when it ends. A key without limits has no allowance at all. Must
never count a request that was refused, nor admit one for which no unit is there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from windlass import errors
from windlass.serving.door import leases, quotas
from windlass.types import spec

# A token that is short of one by the last bits of a double is one.
_WHOLE = 1.0 - 1e-9
_EXACT = 1e-6
# A place is free when some request ends.
_SOON_S = 1.0
# Needs below this are none.
_LEAST = 0.5
# A quota is lent for so many periods, so that nobody waits for the next one.
_PERIODS_AHEAD = 4


class Rate:
    """A token bucket: each unit holds at most one token and fills at its part of the rate."""

    __slots__ = ("_asked", "_at", "_per_unit", "_tokens", "target", "units")

    def __init__(self, now: float) -> None:
        self.units = self.target = self._asked = 0
        self._tokens = self._per_unit = 0.0
        self._at = now

    def change(self, key: spec.Key, now: float) -> None:
        """The key's rate from now on."""
        self._fill(now)
        self._per_unit = key.rate / leases.units(key, "rate")

    def take(self, now: float) -> float:
        """0 if there was a token, else the seconds until there is one."""
        self._asked += 1
        self._fill(now)
        if self._tokens >= _WHOLE:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / (self._per_unit * max(1, self.units))

    def put_back(self) -> None:
        """Another limit refused the request."""
        self._tokens += 1.0

    def release(self) -> None:
        """A request ended: a rate counts beginnings."""

    def receive(self, share: leases.Share, now: float) -> None:
        """Units come with their tokens."""
        self._fill(now)
        self.units += share.given
        self._tokens += share.tokens

    def wanted(self, said: float) -> float:
        """Units for as many requests as came lately, the last period counting half."""
        asked, self._asked = self._asked, 0
        return ((asked / leases.PERIOD_S / self._per_unit if asked else 0.0) + said) / 2

    def back(self, now: float) -> leases.Want:
        """What is too many, with its tokens."""
        self._fill(now)
        count = max(0, self.units - self.target)
        tokens = self._tokens * count / self.units if count else 0.0
        self.units -= count
        self._tokens -= tokens
        return leases.Want(0.0, count, tokens)

    def _fill(self, now: float) -> None:
        filled = self._tokens + (now - self._at) * self._per_unit * self.units
        self._tokens = min(float(self.units), filled)
        self._at = now


class Concurrency:
    """Places for requests under way."""

    __slots__ = ("_peak", "_refused", "_used", "target", "units")

    def __init__(self) -> None:
        self.units = self.target = self._used = self._peak = self._refused = 0

    def take(self, now: float) -> float:  # noqa: ARG002 - one signature for all limits
        """0 if there was a place, else a guess at when there is one."""
        if self._used >= self.units:
            self._refused += 1
            return _SOON_S
        self._used += 1
        self._peak = max(self._peak, self._used)
        return 0.0

    def put_back(self) -> None:
        """Another limit refused the request."""
        self._used -= 1

    def release(self) -> None:
        """A request ended; perhaps one that began before there was this limit."""
        self._used = max(0, self._used - 1)

    def receive(self, share: leases.Share, now: float) -> None:  # noqa: ARG002 - one signature for all limits
        """Places come."""
        self.units += share.given

    def wanted(self, said: float) -> float:
        """The most that were taken at once in the last period, and all that were refused; forgotten by halves."""
        needed = self._peak + self._refused
        self._peak, self._refused = self._used, 0
        return max(float(needed), said / 2)

    def back(self, now: float) -> leases.Want:  # noqa: ARG002 - one signature for all limits
        """What is too many, as far as it is free."""
        count = max(0, self.units - max(self.target, self._used))
        self.units -= count
        return leases.Want(0.0, count)


class Quota:
    """Requests of the day; `wall` gives seconds since the epoch."""

    __slots__ = ("_asked", "_gone", "_spent", "_wall", "target", "units")

    def __init__(self, wall: Callable[[], float]) -> None:
        self.units = self.target = self._asked = self._spent = 0
        self._gone = False
        self._wall = wall

    def take(self, now: float) -> float:  # noqa: ARG002 - one signature for all limits
        """0 if one was left; else the seconds until the next day (UTC), or until another worker's may be here."""
        self._asked += 1
        if self.units <= 0:
            if not self._gone:
                return _SOON_S
            return quotas.DAY_S - self._wall() % quotas.DAY_S
        self.units -= 1
        self._spent += 1
        return 0.0

    def put_back(self) -> None:
        """Another limit refused the request."""
        self.units += 1
        self._spent -= 1

    def release(self) -> None:
        """A request ended: a quota counts beginnings."""

    def receive(self, share: leases.Share, now: float) -> None:  # noqa: ARG002 - one signature for all limits
        """Requests come, or there are none."""
        self.units += share.given
        self._gone = share.gone

    def wanted(self, said: float) -> float:
        """Requests for some periods like those lately, the last one counting half."""
        asked, self._asked = self._asked, 0
        return (asked * _PERIODS_AHEAD + said) / 2

    def back(self, now: float) -> leases.Want:  # noqa: ARG002 - one signature for all limits
        """What is too many, and what was spent."""
        spent, self._spent = self._spent, 0
        count = max(0, self.units - self.target)
        self.units -= count
        return leases.Want(0.0, count, 0.0, spent)


Limit: TypeAlias = Rate | Concurrency | Quota
_SENTENCES: dict[leases.Kind, str] = {
    "rate": "this key has asked as often as it may for the moment",
    "concurrency": "this key has as many requests under way as it may",
    "quota": "this key has asked as often as it may today",
}


class Allowance:
    """The limits of one key; `stirred` collects those that were asked since they were last reported."""

    __slots__ = ("_clock", "_stirred", "key", "limits", "said")

    def __init__(self, key: str, clock: Callable[[], float], stirred: set[Allowance]) -> None:
        self.key = key
        self.limits: dict[leases.Kind, Limit] = {}
        # What was last said that each limit needs.
        self.said: dict[leases.Kind, float] = {}
        self._clock = clock
        self._stirred = stirred

    def take(self) -> None:
        """One more request; `RateLimited` says when to come again. `release` when it has ended."""
        now = self._clock()
        self._stirred.add(self)
        taken: list[Limit] = []
        for kind, limit in self.limits.items():
            wait = limit.take(now)
            if wait:
                for one in taken:
                    one.put_back()
                raise errors.RateLimited(_SENTENCES[kind], retry_after_s=max(1, math.ceil(wait - _EXACT)))
            taken.append(limit)

    def release(self) -> None:
        """A request that was let in has ended."""
        for limit in self.limits.values():
            limit.release()

    def report(self, kind: leases.Kind, *, ask: bool) -> leases.Want | None:
        """What to say of a limit; None if nothing is new. `ask`: a period has passed, so needs are counted anew."""
        limit, said = self.limits[kind], self.said.get(kind, 0.0)
        wanted = said
        if ask:
            wanted = limit.wanted(said)
            wanted = self.said[kind] = wanted if wanted >= _LEAST else 0.0
        back = limit.back(self._clock())
        if wanted == said and not back.returned and not back.spent:
            return None
        return leases.Want(wanted, back.returned, back.tokens, back.spent)


class Allowances:
    """The allowances of a worker's keys, and the messages about them. Belongs to the loop's thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._by_key: dict[str, Allowance] = {}
        self._stirred: set[Allowance] = set()

    def use(self, keys: Iterable[spec.Key]) -> None:
        """The keys' limits as they are now."""
        now = self._clock()
        for key in keys:
            for kind in leases.KINDS:
                if leases.units(key, kind):
                    limit = self._limit(key.id, kind)
                    if isinstance(limit, Rate):
                        limit.change(key, now)

    def of(self, key: spec.Key) -> Allowance | None:
        """The allowance of a key; None where it has no limits."""
        if not any(leases.units(key, kind) for kind in leases.KINDS):
            return None
        if key.id not in self._by_key:
            # The supervisor took its limits away before this worker was told of the keys without them.
            self.use((key,))
        return self._by_key[key.id]

    def grant(self, shares: Mapping[str, leases.Share]) -> dict[str, leases.Want]:
        """Take what was granted, perhaps before its key is known; what is to be answered at once, if anything."""
        now = self._clock()
        answer = {}
        for name, share in shares.items():
            key, kind = leases.parse(name)
            if share.target == leases.FORGET:
                self._forget(key, kind)
                continue
            limit = self._limit(key, kind)
            limit.receive(share, now)
            limit.target = share.target
            want = self._by_key[key].report(kind, ask=False)
            if want is not None:
                answer[name] = want
        return answer

    def wants(self) -> dict[str, leases.Want]:
        """What to say after each period; nothing of keys of which nothing is new."""
        found = {}
        for allowance in tuple(self._stirred):
            for kind in allowance.limits:
                want = allowance.report(kind, ask=True)
                if want is not None:
                    found[leases.name_of(allowance.key, kind)] = want
            if not any(allowance.said.values()):
                self._stirred.discard(allowance)
        return found

    def _limit(self, key: str, kind: leases.Kind) -> Limit:
        allowance = self._by_key.get(key)
        if allowance is None:
            allowance = self._by_key[key] = Allowance(key, self._clock, self._stirred)
        limit = allowance.limits.get(kind)
        if limit is None:
            made: dict[leases.Kind, Callable[[], Limit]] = {
                "rate": lambda: Rate(self._clock()),
                "concurrency": Concurrency,
                "quota": lambda: Quota(self._wall),
            }
            limit = allowance.limits[kind] = made[kind]()
        return limit

    def _forget(self, key: str, kind: leases.Kind) -> None:
        allowance = self._by_key.get(key)
        if allowance is not None:
            allowance.limits.pop(kind, None)
            if not allowance.limits:
                del self._by_key[key]
                self._stirred.discard(allowance)
