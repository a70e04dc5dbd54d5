"""The fleet over workers that a test plays: one spec in all or in none, and no place filled twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
import pytest

from windlass import errors
from windlass.serving import channel, fleet, member, overview, starting
from windlass.serving.metrics import board
from windlass.types import spec


class Worker(member.Member):
    """A worker without a process: `refuses` says what it cannot do, `holds` what it does not come to do yet."""

    def __init__(self, process: Any, place: int, shared: member.Shared, handle: Callable[..., Awaitable[Any]]) -> None:
        self.place, self.state, self.started = place, member.STARTING, 0.0
        self.spec, self.loaded = None, set()
        self.pid = next(process.numbers)
        self.ended = asyncio.get_running_loop().create_future()
        self.heard: list[channel.Body] = []
        self.generation = 0
        self._crowd: Crowd = process
        process.workers.append(self)

    async def open(self, first: channel.Start, gone: Callable[[member.Member], None]) -> None:
        self._gone = gone

    async def ask(self, body: channel.Body, timeout_s: float | None = None) -> Any:
        self.heard.append(body)
        await self._crowd.gate(self, body)
        if self.ended.done():
            raise errors.Unavailable("it ended")
        if isinstance(body, channel.Apply):
            self.generation = body.spec.generation
        return {
            channel.Weigh: (self._crowd.weight, 0),
            channel.Status: {"generation": self.generation, "models": [], "processes": [], "refused": []},
        }.get(type(body))

    def tell(self, body: channel.Body) -> None:
        self.heard.append(body)

    def end(self, status: int = -9) -> None:
        """The process ends."""
        if not self.ended.done():
            self.ended.set_result(status)
            self._gone(self)

    async def leave(self, within_s: float) -> None:
        self.state = member.LEAVING
        self.end(0)

    def _kill(self) -> None:
        asyncio.get_running_loop().call_soon(self.end)


class Listening:
    """A socket that is there."""

    def fileno(self) -> int:
        return 0

    def setsockopt(self, *_: object) -> None: ...

    def close(self) -> None: ...


class Crowd:
    """All workers that were ever started, and what happens when one is asked something."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.numbers = iter(range(100, 1_000))
        self.weight = 0
        self.on: Callable[[Worker, channel.Body], Awaitable[None] | None] = lambda *_: None

    async def gate(self, one: Worker, body: channel.Body) -> None:
        await asyncio.sleep(0)
        waits = self.on(one, body)
        if waits is not None:
            await waits

    def serving(self) -> list[Worker]:
        return [one for one in self.workers if one.alive and one.state == member.SERVING]


Drill = Callable[[fleet.Fleet, Crowd], Coroutine[Any, Any, None]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a drill on a fleet of two workers."""

    def running(drill: Drill, weight: int = 0, workers: int = 2, **more: Any) -> None:
        crowd = Crowd()
        crowd.weight = weight
        monkeypatch.setattr(member, "Member", Worker)
        monkeypatch.setattr(starting, "Starting", lambda: crowd)

        async def inside() -> None:
            found = fleet.Fleet(_spec(1, workers=workers, **more), Listening(), cores=2)  # type: ignore[arg-type]
            await found.start()
            await drill(found, crowd)
            await found.close()

        asyncio.run(inside())

    return running


def _spec(generation: int, **more: Any) -> spec.Spec:
    endpoint = spec.Endpoint("m", (spec.Arm("sha256:0", str(generation)),))
    return spec.Spec((endpoint,), generation, repository=(spec.Endpoint("spare", endpoint.arms),), **more)


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def _settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


@pytest.mark.promise("P-39")
def test_if_a_later_worker_refuses_the_others_go_back(run: Callable[..., None]) -> None:
    async def drill(workers: fleet.Fleet, crowd: Crowd) -> None:
        first, second = crowd.serving()

        def refuse(one: Worker, body: channel.Body) -> None:
            if one is second and isinstance(body, channel.Apply) and body.spec.generation == 2:
                raise errors.CorruptPackage("its disk has it wrong")

        crowd.on = refuse
        with pytest.raises(errors.CorruptPackage, match="wrong"):
            await workers.apply(_spec(2))
        assert workers.spec.generation == 1
        applied = [(body.spec.generation, body.back) for body in first.heard if isinstance(body, channel.Apply)]
        assert applied == [(1, False), (2, False), (1, True)]
        assert [one.generation for one in crowd.serving()] == [1, 1]
        crowd.on = lambda *_: None
        await workers.apply(_spec(2))
        assert [one.generation for one in crowd.serving()] == [2, 2]
        assert workers.restarts == 0

    run(drill)


def test_who_cannot_go_back_is_replaced(run: Callable[..., None]) -> None:
    async def drill(workers: fleet.Fleet, crowd: Crowd) -> None:
        first, second = crowd.serving()

        def refuse(one: Worker, body: channel.Body) -> None:
            if isinstance(body, channel.Apply) and (body.back if one is first else one is second):
                raise errors.Unavailable("no")

        crowd.on = refuse
        with pytest.raises(errors.Unavailable):
            await workers.apply(_spec(2))
        await _settle()
        assert first.ended.done()
        assert len(crowd.serving()) == 2
        assert {one.generation for one in crowd.serving()} == {1}

    run(drill)


def test_a_spec_that_comes_while_a_worker_opens_reaches_it(run: Callable[..., None]) -> None:
    async def drill(workers: fleet.Fleet, crowd: Crowd) -> None:
        opens = asyncio.Event()
        crowd.on = lambda _, body: opens.wait() if isinstance(body, channel.Open) else None  # type: ignore[return-value]
        crowd.serving()[0].end()
        await _settle()
        late = crowd.workers[-1]
        assert (late.generation, late.state) == (1, member.STARTING)
        await workers.apply(_spec(2))
        await workers.change("spare", load=True)
        opens.set()
        await _settle()
        assert (late.generation, late.state) == (2, member.SERVING)
        assert late.loaded == {"spare"}

    run(drill)


@pytest.mark.parametrize("dies", [0, 1])
def test_a_worker_that_dies_while_all_are_replaced_leaves_no_place_empty_or_doubled(
    run: Callable[..., None], dies: int
) -> None:
    async def drill(workers: fleet.Fleet, crowd: Crowd) -> None:
        old = crowd.serving()

        def kill(one: Worker, body: channel.Body) -> None:
            if one is crowd.workers[2] and isinstance(body, channel.Apply):
                old[dies].end()

        crowd.on = kill
        await workers.restart()
        await _settle()
        assert len(crowd.serving()) == 2
        assert not set(old) & set(crowd.serving())

    run(drill)


def test_a_new_worker_that_cannot_serve_leaves_the_old_ones(run: Callable[..., None]) -> None:
    async def drill(workers: fleet.Fleet, crowd: Crowd) -> None:
        old = crowd.serving()

        def fail(one: Worker, body: channel.Body) -> None:
            if one not in old and isinstance(body, channel.Apply):
                one.end()

        crowd.on = fail
        with pytest.raises(errors.Unavailable):
            await workers.restart()
        await _settle()
        assert crowd.serving() == old
        assert len([one for one in crowd.workers if one.alive]) == 2

    run(drill)


def test_withdrawn_trust_does_not_come_back_with_a_new_worker(run: Callable[..., None]) -> None:
    async def drill(workers: fleet.Fleet, crowd: Crowd) -> None:
        await workers.apply(_spec(2, trusted=("aa",)))
        assert workers.spec.trusted == ("aa",)
        crowd.serving()[0].end()
        await _settle()
        (applied,) = [body for body in crowd.workers[-1].heard if isinstance(body, channel.Apply)]
        assert applied.spec.trusted == ("aa",)

    run(drill, trusted=("aa", "bb"))


def test_the_status_says_what_another_start_would_plan(run: Callable[..., None]) -> None:
    async def drill(workers: fleet.Fleet, crowd: Crowd) -> None:
        assert (await overview.Overview(workers, {}).status())["plan"]["after_a_new_start"] == ""
        crowd.weight = 400_000_000
        await workers.apply(_spec(2))
        plan = (await overview.Overview(workers, {}).status())["plan"]
        assert plan["workers"] == 2
        assert "1 worker with up to 2 threads" in plan["after_a_new_start"]

    run(drill, workers=0)


def test_nobody_says_that_it_is_ready_before_all_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd()
    monkeypatch.setattr(member, "Member", Worker)
    monkeypatch.setattr(starting, "Starting", lambda: crowd)

    async def inside() -> None:
        second_loads = asyncio.Event()

        def hold(one: Worker, body: channel.Body) -> Awaitable[None] | None:
            return second_loads.wait() if one is not crowd.workers[0] and isinstance(body, channel.Apply) else None  # type: ignore[return-value]

        crowd.on = hold
        found = fleet.Fleet(_spec(1, workers=2), Listening(), cores=2)  # type: ignore[arg-type]
        loading = asyncio.ensure_future(found.start())
        await _settle()
        first, second = crowd.workers
        found.places._board.beat(first.place, 0)
        assert first.state == member.SERVING
        assert not found.ready()
        assert channel.Ready(ready=True) not in first.heard
        second_loads.set()
        await loading
        assert found.ready()
        assert first.heard[-1] == second.heard[-1] == channel.Ready(ready=True)
        await found.close()

    asyncio.run(inside())


@pytest.mark.promise("P-46")
def test_not_ready_when_no_worker_turns(run: Callable[..., None]) -> None:
    async def drill(workers: fleet.Fleet, crowd: Crowd) -> None:
        now = [1_000.0]
        known = workers.places._board = board.Board(workers.places._board.fd, clock=lambda: int(now[0] * 1e9))
        assert not workers.ready()
        for one in crowd.serving():
            known.beat(one.place, 0)
        now[0] += 4
        assert workers.ready()
        known.beat(crowd.serving()[0].place, 0)
        now[0] += 4
        assert workers.ready()
        now[0] += 1
        assert not workers.ready()
        workers.places._looked = float("inf")
        workers.places.end_hung()
        await _settle()
        assert {one.pid for one in crowd.serving()}.isdisjoint({100, 101})

    run(drill)


def test_who_was_kept_from_looking_blames_nobody(run: Callable[..., None]) -> None:
    async def drill(workers: fleet.Fleet, crowd: Crowd) -> None:
        known = workers.places._board
        known._clock = lambda: 10**18
        for one in crowd.serving():
            known.beat(one.place, 0)
        known._clock = lambda: 2 * 10**18
        workers.places._looked = 0.0
        workers.places.end_hung()
        assert len(crowd.serving()) == 2

    run(drill)


def test_fields_of_a_put_are_those_of_models_and_keys(run: Callable[..., None]) -> None:
    async def drill(workers: fleet.Fleet, crowd: Crowd) -> None:
        before = workers.spec
        await workers.apply(msgspec.structs.replace(_spec(2), listen="0.0.0.0:1", grace_s=1.0, workers=3))
        assert (workers.spec.listen, workers.spec.grace_s, workers.spec.workers) == (
            before.listen,
            before.grace_s,
            3,
        )
        with pytest.raises(errors.Conflict):
            await workers.apply(_spec(2))

    run(drill)


@pytest.mark.promise("P-45")
def test_fewer_workers_are_those_that_start_then_idle_ones_then_busy_ones(run: Callable[..., None]) -> None:
    async def drill(workers: fleet.Fleet, crowd: Crowd) -> None:
        busy, idle, third = crowd.serving()
        for one, under_way, connections in ((busy, 3, 1), (idle, 0, 9), (third, 1, 0)):
            workers.places._board.work(one.place, under_way)
            workers.places._board.beat(one.place, connections)
        opens = asyncio.Event()
        crowd.on = lambda one, body: (
            _until(opens) if isinstance(body, channel.Open) and one.state == member.STARTING else None
        )
        await workers.apply(_spec(2, workers=4))
        await _settle()
        starting = crowd.workers[-1]
        assert (starting.state, len(crowd.workers)) == (member.STARTING, 4)
        gone: list[Worker] = []
        for generation, wanted in enumerate((3, 2, 1), start=3):
            await workers.apply(_spec(generation, workers=wanted))
            await _settle()
            gone += [one for one in crowd.workers if one.ended.done() and one not in gone]
        assert gone == [starting, idle, third]
        opens.set()
        await _settle()
        assert crowd.serving() == [busy]
        assert len(crowd.workers) == 4

    run(drill, workers=3)


def test_more_workers_have_the_spec_in_force_before_they_serve(run: Callable[..., None]) -> None:
    async def drill(workers: fleet.Fleet, crowd: Crowd) -> None:
        await workers.apply(_spec(2, workers=3))
        await _settle()
        assert [one.generation for one in crowd.serving()] == [2, 2, 2]
        assert all(channel.Open(alone=False) in one.heard for one in crowd.serving())
        await workers.apply(_spec(3))
        await _settle()
        assert ([one.generation for one in crowd.serving()], workers.spec.workers) == ([3, 3, 3], 3)
        with pytest.raises(errors.UsageError, match="room for 4 workers"):
            await workers.apply(_spec(4, workers=5))
        assert workers.spec.generation == 3

    run(drill, workers=1)


@pytest.mark.promise("P-37")
def test_a_spec_that_loads_nothing_does_not_wait_for_one_that_loads(run: Callable[..., None]) -> None:
    async def drill(workers: fleet.Fleet, crowd: Crowd) -> None:
        loaded = asyncio.Event()
        crowd.on = lambda _, body: (
            _until(loaded) if isinstance(body, channel.Prepare) and body.spec.endpoints[0].max_batch else None
        )
        (endpoint,) = _spec(2).endpoints
        new = msgspec.structs.replace(endpoint, max_batch=9)
        loading = asyncio.create_task(workers.apply(msgspec.structs.replace(_spec(2), endpoints=(new,))))
        await _settle()
        await workers.apply(_spec(2))
        assert (workers.spec.generation, loading.done()) == (2, False)
        loaded.set()
        with pytest.raises(errors.Conflict):
            await loading
        assert workers.refused == ""
        await workers.apply(msgspec.structs.replace(_spec(3), endpoints=(new,)))
        assert workers.spec.endpoints == (new,)

    run(drill)
