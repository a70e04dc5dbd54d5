"""Who is next: calls that wait, by class of priority, by tenant, by bucket of shapes, by when they are due.

Classes are strict, but none waits forever. Within a class tenants share by start-time fair queueing (Goyal, Vin and
Cheng 1996): each has a tag that grows by the work it was given, and the least tag is next. Within a tenant the call
that is due first decides the bucket of the batch. Filled and emptied by a batcher. Must never give out a call that
ended or expired, or close a batch early because the next call has another shape.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

from windlass.types import contract, inference

# A class that waited for so long while others went before it has one batch.
STARVED_S = 1.0
# Without a deadline a call is due as if it had one, this long after it came and some runs of its own length more: the
# short go before the long that came a little earlier (the due times of Bender, Chakrabarti and Muthukrishnan 1998, in
# proportion to size, against the largest stretch). And no deadline is so far away that it lets others pass for longer.
_DUE_S = 0.5
_STRETCH = 4.0
_LATEST_S = 5.0
# A heap is rebuilt when half of it, and more than this, are calls that ended.
_DEAD = 16
# A call that has less than this part of a run left is as good as expired: its run would be for nobody.
_SURE = 0.8
# And a batch grows no further when so much more than its predicted run would pass a deadline in it.
_CAUTION = 1.1
_REMEMBERED = 64


class _Ticket:
    """A call that waits; `call` is None once it left. After `latest` a run would come too late."""

    __slots__ = ("bucket", "call", "cost", "latest", "level", "tenant")

    def __init__(
        self, call: inference.Call, cost: float, run_s: float, level: _Level, tenant: _Tenant, bucket: _Bucket
    ) -> None:
        self.call: inference.Call | None = call
        self.cost = cost
        self.latest = math.inf if call.deadline is None else call.deadline - _SURE * run_s
        self.level = level
        self.tenant = tenant
        self.bucket = bucket


class _Bucket:
    """The calls of one tenant that may share a run, due first first; at least one of them is live."""

    __slots__ = ("heap", "key", "live")

    def __init__(self, key: contract.ShapeKey) -> None:
        self.key = key
        self.heap: list[tuple[float, int, _Ticket]] = []
        self.live = 0

    def head(self) -> tuple[float, int, _Ticket]:
        """The live call that is due first."""
        heap = self.heap
        while heap[0][2].call is None:
            heapq.heappop(heap)
        return heap[0]


class _Tenant:
    """One caller's calls of one class."""

    __slots__ = ("buckets", "identity", "rows", "tag", "work_s")

    def __init__(self, identity: str, tag: float) -> None:
        self.identity = identity
        self.tag = tag
        self.buckets: dict[contract.ShapeKey, _Bucket] = {}
        self.rows = 0
        self.work_s = 0.0

    def first(self) -> _Bucket:
        """The bucket of the call that is due first."""
        buckets = self.buckets
        if len(buckets) == 1:
            return next(iter(buckets.values()))
        return min(buckets.values(), key=_due)


class _Level:
    """One class of priority. `served` is when it last had a batch, or began to wait; `credit_s` see `Queues.push`."""

    __slots__ = ("credit_s", "priority", "served", "tags", "tenants", "virtual", "work_s")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.tenants: dict[str, _Tenant] = {}
        # Tags of those who had used some of their credit when their last call left.
        self.tags: dict[str, float] = {}
        self.virtual = 0.0
        self.credit_s = 0.0
        self.work_s = 0.0
        self.served = 0.0

    def tenant(self, identity: str, now: float) -> _Tenant:
        """The tenant, made if none of its calls waits: it begins where the others are, or before by its credit."""
        found = self.tenants.get(identity)
        if found is None:
            if not self.tenants:
                self.served = now
            found = _Tenant(identity, max(self.virtual - self.credit_s, self.tags.pop(identity, -math.inf)))
            self.tenants[identity] = found
        return found

    def leave(self, tenant: _Tenant) -> None:
        """None of a tenant's calls waits any more."""
        del self.tenants[tenant.identity]
        if not self.tenants:
            self.work_s = 0.0
        start = self.virtual - self.credit_s
        if tenant.tag > start:
            if len(self.tags) > 2 * len(self.tenants) + _REMEMBERED:
                self.tags = {name: tag for name, tag in self.tags.items() if tag > start}
            self.tags[tenant.identity] = tenant.tag


class _Fits:
    """What a batch has room for: rows, and the time until the first of its deadlines."""

    __slots__ = ("_key", "_run_s", "_until", "limit", "now", "rows")

    def __init__(
        self, now: float, limit: int, key: contract.ShapeKey, run_s: Callable[[contract.ShapeKey, int], float]
    ) -> None:
        self.now = now
        self.limit = limit
        self.rows = 0
        self._key, self._run_s = key, run_s
        self._until = math.inf

    def add(self, call: inference.Call) -> bool:
        """Make the batch larger by a call, unless it would not fit; the first always does."""
        rows = self.rows + call.request.rows
        until = self._until if call.deadline is None else min(self._until, call.deadline)
        if self.rows and (
            rows > self.limit or (until < math.inf and self.now + self._run_s(self._key, rows) * _CAUTION > until)
        ):
            return False
        self.rows, self._until = rows, until
        return True


class Queues:
    """All calls that wait for one model. `rows` are those of live calls."""

    def __init__(self) -> None:
        self.rows = 0
        self._levels = tuple(_Level(priority) for priority in (inference.PROBE, inference.INTERACTIVE, inference.BATCH))
        self._tickets: dict[int, _Ticket] = {}
        self._numbers = itertools.count()

    @property
    def calls(self) -> int:
        """Live calls."""
        return len(self._tickets)

    def push(
        self,
        call: inference.Call,
        key: contract.ShapeKey,
        *,
        cost_s: float,
        run_s: float,
        credit_s: float,
        now: float,
    ) -> None:
        """Let a call wait. `cost_s` is its part of the work, more than 0; `run_s` a run with its rows alone.

        `credit_s` is how much work of a tenant that had less than its share goes first, so that its calls need not
        take turns with another's when some come close together (the warp of Duda and Cheriton 1999).
        """
        level = self._levels[min(max(call.priority, inference.PROBE), inference.BATCH)]
        level.credit_s = credit_s
        tenant = level.tenant(call.identity, now)
        bucket = tenant.buckets.get(key)
        if bucket is None:
            bucket = tenant.buckets[key] = _Bucket(key)
        if call.deadline is None:
            due = call.arrived + _DUE_S + _STRETCH * run_s
        else:
            due = min(call.deadline, call.arrived + _LATEST_S)
        ticket = self._tickets[id(call)] = _Ticket(call, cost_s, run_s, level, tenant, bucket)
        heapq.heappush(bucket.heap, (due, next(self._numbers), ticket))
        bucket.live += 1
        rows = call.request.rows
        self.rows += rows
        tenant.rows += rows
        tenant.work_s += cost_s
        level.work_s += cost_s

    def discard(self, call: inference.Call) -> None:
        """A call ended while it waited."""
        ticket = self._tickets[id(call)]
        self._remove(ticket, call)
        bucket = ticket.bucket
        if len(bucket.heap) > 2 * bucket.live + _DEAD:
            bucket.heap = [entry for entry in bucket.heap if entry[2].call is not None]
            heapq.heapify(bucket.heap)

    def _remove(self, ticket: _Ticket, call: inference.Call) -> None:
        del self._tickets[id(call)]
        ticket.call = None
        level, tenant, bucket = ticket.level, ticket.tenant, ticket.bucket
        rows = call.request.rows
        self.rows -= rows
        tenant.rows -= rows
        tenant.work_s -= ticket.cost
        level.work_s -= ticket.cost
        bucket.live -= 1
        if not bucket.live:
            del tenant.buckets[bucket.key]
            if not tenant.buckets:
                level.leave(tenant)

    def take(
        self,
        now: float,
        rows_of: Callable[[contract.ShapeKey], int],
        run_s: Callable[[contract.ShapeKey, int], float],
        alone: Callable[[str, float], bool],
    ) -> tuple[contract.ShapeKey, list[inference.Call], list[inference.Call]]:
        """The next batch: its bucket, its calls, and those that expired, or are sure to before their run is over.

        `rows_of` is the most rows of a run of a bucket, unless one call has more; `run_s` the seconds of a run with so
        many, which nobody's deadline is passed for. Callers that are `alone` share no run. There may be no call left.
        """
        level = self._next_level(now)
        level.served = now
        tenant = min(level.tenants.values(), key=_tag)
        level.virtual = max(level.virtual, tenant.tag)
        bucket = tenant.first()
        key, limit = bucket.key, rows_of(bucket.key)
        calls: list[inference.Call] = []
        expired: list[inference.Call] = []
        if alone(tenant.identity, now):
            fits = _Fits(now, 1, key, run_s)
            self._fill([(tenant.tag, 0, tenant)], key, fits, into=(calls, expired))
        else:
            sharing = [
                (other.tag, number, other)
                for number, other in enumerate(level.tenants.values())
                if key in other.buckets and (other is tenant or not alone(other.identity, now))
            ]
            self._fill(sharing, key, _Fits(now, limit, key, run_s), into=(calls, expired))
        return key, calls, expired

    def _next_level(self, now: float) -> _Level:
        """The first class that waits, unless one behind it was let wait for too long."""
        waiting = [level for level in self._levels if level.tenants]
        for level in waiting[:0:-1]:
            if now - level.served > STARVED_S:
                return level
        return waiting[0]

    def _fill(
        self,
        sharing: list[tuple[float, int, _Tenant]],
        key: contract.ShapeKey,
        batch: _Fits,
        into: tuple[list[inference.Call], list[inference.Call]],
    ) -> None:
        """Take calls of one bucket, each from the tenant with the least tag, while they fit."""
        calls, expired = into
        heapq.heapify(sharing)
        while sharing and (batch.rows < batch.limit or not calls):
            _, number, tenant = sharing[0]
            bucket = tenant.buckets[key]
            ticket = bucket.head()[2]
            call = ticket.call
            if call is None:
                raise AssertionError("unreachable")
            late = ticket.latest <= batch.now
            if not late and not batch.add(call):
                # Somebody behind may have less.
                heapq.heappop(sharing)
                continue
            heapq.heappop(bucket.heap)
            if late:
                expired.append(call)
            else:
                calls.append(call)
                tenant.tag += ticket.cost
            self._remove(ticket, call)
            if bucket.live:
                heapq.heapreplace(sharing, (tenant.tag, number, tenant))
            else:
                heapq.heappop(sharing)

    # What is asked before a call is let in

    def has_share(self, identity: str, rows: int, room: int) -> bool:
        """Whether these rows more are within this caller's part of `room`, shared evenly by all who wait."""
        own = tenants = 0
        for level in self._levels:
            tenants += len(level.tenants)
            waiting = level.tenants.get(identity)
            if waiting is not None:
                own += waiting.rows
                tenants -= 1
        return (own + rows) * (tenants + 1) <= room

    def ahead_s(self, identity: str, priority: int) -> float:
        """Seconds of work that go before a new call: all of the classes above, and of its own what fairness lets.

        A caller of whom nothing waits is next.
        """
        ahead = 0.0
        for level in self._levels:
            if level.priority < priority:
                ahead += level.work_s
                continue
            waiting = level.tenants.get(identity)
            if waiting is not None:
                # Of its own what is left of its credit goes first, the rest in turns with all others.
                left = max(0.0, level.virtual - waiting.tag)
                in_turns = max(0.0, waiting.work_s - left) * (len(level.tenants) - 1)
                return ahead + min(level.work_s, waiting.work_s + in_turns)
            break
        return ahead


def alike(calls: list[inference.Call]) -> bool:
    """Whether these calls may run in the order in which they came: one caller's, of one class, due at no time."""
    identity, priority = calls[0].identity, calls[0].priority
    return all(c.identity == identity and c.priority == priority and c.deadline is None for c in calls)


def split(calls: list[inference.Call], limit: int) -> tuple[list[inference.Call], list[inference.Call]]:
    """As many calls from the front as fit into a run of `limit` rows, at least one; and the rest."""
    rows = calls[0].request.rows
    for index in range(1, len(calls)):
        rows += calls[index].request.rows
        if rows > limit:
            return calls[:index], calls[index:]
    return calls, []


def _due(bucket: _Bucket) -> tuple[float, int]:
    entry = bucket.head()
    return entry[0], entry[1]


def _tag(tenant: _Tenant) -> float:
    return tenant.tag
