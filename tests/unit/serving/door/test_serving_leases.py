"""Limits that several workers keep together: never more than one server would admit, whatever messages do; no less."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.serving.door import leases, limits
from windlass.types import spec

KEY = spec.Key("k", "00")
DAY = 86_400.0


class Fleet:
    """A lessor and workers on one clock. Messages arrive when a test says so, each way in the order they were sent."""

    def __init__(self, key: spec.Key, workers: int, state: str = "") -> None:
        self.now = 1_000.0
        self.wall = 20_000 * DAY + 3_600.0
        self.key = key
        self.lessor = leases.Lessor(state, clock=lambda: self.now, wall=lambda: self.wall)
        self.lessor.use([key])
        self.workers = [limits.Allowances(clock=lambda: self.now, wall=lambda: self.wall) for _ in range(workers)]
        self.down: list[list[dict[str, leases.Share]]] = [[] for _ in self.workers]
        self.up: list[list[dict[str, leases.Want]]] = [[] for _ in self.workers]
        for number, worker in enumerate(self.workers):
            self.lessor.join(number)
            worker.use([key])
        self.turn()

    def turn(self) -> None:
        """A period of the lessor, its messages delivered and answered at once."""
        self.send()
        for number in range(len(self.workers)):
            self.deliver(number)

    def send(self) -> None:
        for number, shares in self.lessor.grants().items():
            self.down[number].append(shares)

    def report(self, number: int) -> None:
        wants = self.workers[number].wants()
        if wants:
            self.up[number].append(wants)

    def deliver(self, number: int) -> None:
        for shares in self.down[number]:
            answer = self.workers[number].grant(shares)
            if answer:
                self.up[number].append(answer)
        self.down[number] = []
        for wants in self.up[number]:
            self.lessor.demand(number, wants)
        self.up[number] = []

    def period(self) -> None:
        """A tenth of a second in which everybody says what there is to say."""
        self.now += leases.PERIOD_S
        self.wall += leases.PERIOD_S
        for number in range(len(self.workers)):
            self.report(number)
            self.deliver(number)
        self.turn()

    def ask(self, number: int) -> bool:
        allowance = self.workers[number].of(self.key)
        assert allowance is not None
        try:
            allowance.take()
        except errors.RateLimited:
            return False
        return True

    def release(self, number: int) -> None:
        allowance = self.workers[number].of(self.key)
        assert allowance is not None
        allowance.release()


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.dictionaries(st.integers(0, 9), st.floats(0, 1e5) | st.integers(0, 100).map(float), min_size=1),
)
def test_a_share_is_all_of_the_limit_and_goes_where_it_is_needed(limit: int, demands: dict[int, float]) -> None:
    granted = leases.share(limit, demands)
    assert sum(granted.values()) == limit
    assert min(granted.values()) >= 0
    needed = sum(demands.values())
    for worker, demand in demands.items():
        if needed <= limit:
            assert granted[worker] > demand - 1
        else:
            assert abs(granted[worker] - limit * demand / needed) <= 1
    alike = [granted[worker] for worker, demand in demands.items() if demand == demands[min(demands)]]
    assert max(alike) - min(alike) <= 1


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 2), st.integers(1, 12)),
        st.tuples(st.just("release"), st.integers(0, 2), st.integers(1, 12)),
        st.tuples(st.sampled_from(["report", "deliver"]), st.integers(0, 2), st.just(0)),
        st.tuples(st.sampled_from(["send", "period"]), st.just(0), st.just(0)),
        st.tuples(st.just("wait"), st.just(0), st.integers(1, 40)),
    ),
    max_size=120,
)


@settings(deadline=None)
@given(st.floats(0.2, 500), st.integers(0, 40), ACTIONS)
def test_no_order_of_messages_admits_more_than_the_rate(
    rate: float, burst: int, actions: list[tuple[str, int, int]]
) -> None:
    key = msgspec.structs.replace(KEY, rate=rate, burst=burst)
    fleet = Fleet(key, 3)
    start, admitted = fleet.now, 0
    for action, number, count in actions:
        if action == "ask":
            admitted += sum(fleet.ask(number) for _ in range(count))
        elif action == "wait":
            fleet.now += count / 100
        elif action == "period":
            fleet.period()
        elif action == "send":
            fleet.send()
        elif action != "release":
            getattr(fleet, action)(number)
        assert admitted <= rate * (fleet.now - start) + leases.units(key, "rate") + 1e-6


@settings(deadline=None)
@given(st.integers(1, 9), ACTIONS)
def test_no_order_of_messages_lets_more_run_at_once(concurrency: int, actions: list[tuple[str, int, int]]) -> None:
    fleet = Fleet(msgspec.structs.replace(KEY, concurrency=concurrency), 3)
    running = [0, 0, 0]
    for action, number, count in actions:
        if action == "ask":
            running[number] += sum(fleet.ask(number) for _ in range(count))
        elif action == "release":
            for _ in range(min(count, running[number])):
                fleet.release(number)
                running[number] -= 1
        elif action == "period":
            fleet.period()
        elif action == "send":
            fleet.send()
        elif action != "wait":
            getattr(fleet, action)(number)
        assert sum(running) <= concurrency
    # All of them can be had again, by whoever asks.
    for number in range(3):
        for _ in range(running[number]):
            fleet.release(number)
    had = 0
    for _ in range(20):
        while fleet.ask(1):
            had += 1
        fleet.period()
    assert had == concurrency


@settings(deadline=None)
@given(st.integers(1, 60), ACTIONS)
def test_no_order_of_messages_passes_the_days_quota(quota: int, actions: list[tuple[str, int, int]]) -> None:
    fleet = Fleet(msgspec.structs.replace(KEY, quota=quota), 3)
    admitted = 0
    for action, number, count in actions:
        if action == "ask":
            admitted += sum(fleet.ask(number) for _ in range(count))
        elif action == "period":
            fleet.period()
        elif action == "send":
            fleet.send()
        elif action in ("report", "deliver"):
            getattr(fleet, action)(number)
        assert admitted <= quota
    for _ in range(20):
        admitted += sum(fleet.ask(2) for _ in range(quota + 1))
        fleet.period()
    assert admitted == quota


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("rate", [1.0, 20.0, 1_000.0])
def test_one_worker_gets_the_whole_rate_when_the_others_need_none(workers: int, rate: float) -> None:
    fleet = Fleet(msgspec.structs.replace(KEY, rate=rate), workers)
    # What was saved up is used up first.
    for _ in range(20):
        while fleet.ask(0):
            pass
        fleet.period()
    while fleet.ask(0):
        pass
    admitted = 0
    for _ in range(100):
        fleet.period()
        while fleet.ask(0):
            admitted += 1
    assert rate * 10 - 1 <= admitted <= rate * 10 + 1


def test_two_periods_after_it_is_needed_all_of_it_is_there() -> None:
    fleet = Fleet(msgspec.structs.replace(KEY, concurrency=8), 4)
    assert [fleet.ask(3) for _ in range(8)] == [True, True] + [False] * 6
    fleet.period()
    admitted = 2 + sum(fleet.ask(3) for _ in range(6))
    fleet.period()
    admitted += sum(fleet.ask(3) for _ in range(6))
    assert admitted == 8


def test_the_first_request_finds_a_share() -> None:
    fleet = Fleet(msgspec.structs.replace(KEY, rate=100.0, concurrency=4, quota=1_000), 4)
    assert [fleet.ask(number) for number in range(4)] == [True] * 4


def test_needs_decide_who_gets_how_much() -> None:
    fleet = Fleet(msgspec.structs.replace(KEY, rate=1_000.0), 2)
    admitted = [0, 0]
    for period in range(120):
        for _ in range(20):
            admitted[0] += fleet.ask(0) and period >= 20
        for _ in range(200):
            admitted[1] += fleet.ask(1) and period >= 20
        fleet.period()
    # 200/s and 2000/s are asked, 1000/s are there: by their needs.
    assert admitted[0] == pytest.approx(10_000 / 11, rel=0.05)
    assert admitted[1] == pytest.approx(100_000 / 11, rel=0.05)


def test_who_asks_seldom_is_not_refused_because_another_worker_was_asked_before() -> None:
    key = msgspec.structs.replace(KEY, rate=20.0, burst=20, concurrency=2, quota=1_000)
    fleet = Fleet(key, 2)
    for turn in range(100):
        assert fleet.ask(turn % 2), turn
        fleet.release(turn % 2)
        for _ in range(1 + turn % 3):
            fleet.period()


def test_what_a_dead_worker_held_comes_back() -> None:
    fleet = Fleet(msgspec.structs.replace(KEY, concurrency=4, quota=10), 2)
    assert fleet.ask(0)
    fleet.lessor.leave(0)
    fleet.down[0].clear()
    for _ in range(3):
        while fleet.ask(1):
            pass
        for number, shares in fleet.lessor.grants().items():
            assert number == 1
            fleet.lessor.demand(1, fleet.workers[1].grant(shares))
        fleet.lessor.demand(1, fleet.workers[1].wants())
    held = fleet.workers[1].of(fleet.key)
    assert held is not None
    assert held.limits["concurrency"].units == 4


def test_a_limit_that_is_taken_away_limits_nobody_and_starts_afresh_when_it_is_set_again() -> None:
    fleet = Fleet(msgspec.structs.replace(KEY, concurrency=1), 1)
    assert fleet.ask(0)
    assert not fleet.ask(0)
    fleet.key = KEY
    fleet.lessor.use([KEY])
    fleet.turn()
    fleet.workers[0].use([KEY])
    assert fleet.workers[0].of(KEY) is None
    fleet.key = msgspec.structs.replace(KEY, concurrency=2)
    fleet.lessor.use([fleet.key])
    fleet.turn()
    fleet.workers[0].use([fleet.key])
    assert [fleet.ask(0) for _ in range(3)] == [True, True, False]


def test_another_rate_holds_for_all_workers() -> None:
    fleet = Fleet(msgspec.structs.replace(KEY, rate=100.0), 2)
    for rate, burst in ((10.0, 5), (300.0, 50)):
        fleet.key = msgspec.structs.replace(KEY, rate=rate, burst=burst)
        fleet.lessor.use([fleet.key])
        for worker in fleet.workers:
            worker.use([fleet.key])
        for _ in range(10):
            fleet.period()
        while fleet.ask(0) or fleet.ask(1):
            pass
        admitted = 0
        for _ in range(100):
            fleet.period()
            for number in (0, 1):
                while fleet.ask(number):
                    admitted += 1
        assert admitted == pytest.approx(rate * 10, rel=0.02)


def test_who_comes_back_when_told_is_let_in(tmp_path: Path) -> None:
    fleet = Fleet(msgspec.structs.replace(KEY, rate=0.25, burst=2), 1)
    allowance = fleet.workers[0].of(fleet.key)
    assert allowance is not None
    allowance.take()
    allowance.take()
    fleet.now += 1.5
    with pytest.raises(errors.RateLimited) as told:
        allowance.take()
    assert told.value.retry_after_s == 3
    fleet.now += told.value.retry_after_s
    allowance.take()


def _spend(fleet: Fleet, count: int) -> int:
    done = 0
    for _ in range(count):
        done += fleet.ask(0)
        fleet.period()
    return done


def test_a_quota_survives_a_restart_and_ends_with_the_day(tmp_path: Path) -> None:
    key = msgspec.structs.replace(KEY, quota=30)
    first = Fleet(key, 2, str(tmp_path))
    assert _spend(first, 12) == 12
    first.lessor.save(last=True)
    again = Fleet(key, 2, str(tmp_path))
    assert _spend(again, 40) == 18
    allowance = again.workers[0].of(key)
    assert allowance is not None
    with pytest.raises(errors.RateLimited) as told:
        allowance.take()
    assert 0 < told.value.retry_after_s - (DAY - again.wall % DAY) <= 1
    again.wall += told.value.retry_after_s
    again.period()
    assert _spend(again, 40) == 30
    again.lessor.save(last=True)
    third = Fleet(key, 2, str(tmp_path))
    # Its clock is a day behind: another day's counts are not this one's.
    assert _spend(third, 5) == 5


def test_only_a_quota_that_is_used_up_is_told_to_wait_for_the_day() -> None:
    fleet = Fleet(msgspec.structs.replace(KEY, quota=4), 2)
    allowance = fleet.workers[0].of(fleet.key)
    assert allowance is not None

    def wait() -> float:
        while True:
            try:
                allowance.take()
            except errors.RateLimited as e:
                return e.retry_after_s

    # The other worker has two.
    assert wait() == 1
    for _ in range(4):
        fleet.period()
        wait()
    assert fleet.lessor._quotas.used("k") == 4
    fleet.period()
    assert wait() == pytest.approx(DAY - fleet.wall % DAY, abs=1)


def test_counts_are_written_at_most_once_a_second(tmp_path: Path) -> None:
    fleet = Fleet(msgspec.structs.replace(KEY, quota=1_000), 1, str(tmp_path))
    file = tmp_path / "quotas.json"
    seen: list[bytes] = []
    for _ in range(30):
        fleet.ask(0)
        fleet.period()
        fleet.lessor.save()
        text = file.read_bytes()
        if not seen or seen[-1] != text:
            seen.append(text)
    assert 3 <= len(seen) <= 4
    assert [path.name for path in tmp_path.iterdir()] == ["quotas.json"]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"number": 1, "used": {"k": "many"}}'])
def test_counts_that_cannot_be_read_do_not_lift_the_limits(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "quotas.json").write_bytes(text)
    with pytest.raises(errors.UsageError, match="quota"):
        leases.Lessor(str(tmp_path))


def test_what_is_unknown_is_passed_over() -> None:
    fleet = Fleet(msgspec.structs.replace(KEY, concurrency=2), 1)
    fleet.lessor.demand(0, {"colour:k": leases.Want(5.0), "rate:other": leases.Want(5.0, 3), "": leases.Want(1.0)})
    fleet.lessor.demand(7, {"concurrency:k": leases.Want(5.0, 2)})
    fleet.period()
    assert [fleet.ask(0) for _ in range(3)] == [True, True, False]
