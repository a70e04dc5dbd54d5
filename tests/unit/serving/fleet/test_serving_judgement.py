"""How many workers, when to start them again, when to blame their spec, and what is remembered of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.cli import serve
from windlass.serving import crashes, last_good, sizing
from windlass.serving.metrics import board
from windlass.types import spec

MB = 1_000_000


@pytest.mark.parametrize(
    ("cores", "wanted", "size", "workers", "threads", "reason"),
    [
        (1, 0, 0, 1, 0, "one core"),
        (4, 0, MB, 4, 1, "one for each core"),
        (4, 0, 400 * MB, 1, 0, "400 MB of weights"),
        (8, 3, 400 * MB, 3, 2, "as asked for; each holds its own 400 MB"),
        (2, 1, 0, 1, 0, "1 worker, as asked for"),
        (2, 5, 0, 5, 1, "5 workers, as asked for"),
        (0, 0, 0, 1, 0, "one core"),
    ],
)
def test_the_plan(cores: int, wanted: int, size: int, workers: int, threads: int, reason: str) -> None:
    plan = sizing.choose(cores, wanted, size)
    assert (plan.workers, plan.threads) == (workers, threads)
    assert reason in plan.reason


@given(st.integers(1, 512), st.integers(0, 512), st.integers(0, 10**12))
def test_no_plan_runs_more_threads_than_there_are_cores_without_being_asked(cores: int, wanted: int, size: int) -> None:
    plan = sizing.choose(cores, wanted, size)
    assert plan.workers == wanted or (not wanted and 1 <= plan.workers <= cores)
    assert plan.workers * plan.threads <= max(cores, plan.workers)


@pytest.mark.parametrize(("text", "most"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 512), ("", 512)])
def test_the_quota_of_a_container_counts(tmp_path: Path, text: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert 1 <= sizing.cores(tmp_path / "cpu.max") <= most
    assert sizing.cores(tmp_path / "none") >= 1


@pytest.mark.parametrize(("text", "workers"), [("auto", 0), ("1", 1), ("16", 16)])
def test_workers_are_a_number_or_auto(text: str, workers: int) -> None:
    assert serve.parse_workers(text) == workers


@pytest.mark.parametrize("text", ["0", "-1", "many", "", "1.5", "9999999", "²"])
def test_anything_else_is_told(text: str) -> None:
    with pytest.raises(errors.UsageError, match="--workers"):
        serve.parse_workers(text)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_pauses_grow_to_a_second_and_are_forgotten() -> None:
    clock = Clock()
    judge = crashes.Judge(clock=clock)
    pauses = []
    for _ in range(9):
        pauses.append(judge.died())
        clock.now += 0.5
    assert pauses == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    clock.now += 60
    assert judge.died() == 0.0


@pytest.mark.promise("P-51")
def test_a_spec_is_blamed_only_while_it_is_new_and_for_its_own_deaths() -> None:
    clock = Clock()
    judge = crashes.Judge(2, clock=clock)
    judge.died()
    judge.died()
    judge.in_force()
    assert not judge.looping
    clock.now += 1
    for _ in range(2):
        judge.died()
    # Both workers may die at once for a reason outside.
    assert not judge.looping
    judge.died()
    assert judge.looping
    judge.in_force()
    clock.now += crashes.TRIAL_S
    for _ in range(5):
        judge.died()
    assert not judge.on_trial
    assert not judge.looping


def test_deaths_far_apart_are_no_loop() -> None:
    clock = Clock()
    judge = crashes.Judge(1, clock=clock)
    judge.in_force()
    for _ in range(10):
        judge.died()
        assert not judge.looping
        clock.now += crashes.WINDOW_S


def _spec(version: str, generation: int = 1) -> spec.Spec:
    return spec.Spec((spec.Endpoint("m", (spec.Arm("sha256:" + version, version),)),), generation)


def test_what_crashed_is_remembered_over_the_end_of_the_supervisor(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    one = last_good.LastGood(folder)
    assert one.good is None
    one.keep(_spec("1"))
    one.blame(_spec("2", 2), "generation 2 crashed")
    for record in (one, last_good.LastGood(folder)):
        assert record.good == _spec("1")
        # It is the models that crash, whatever the generation.
        assert record.why_bad(_spec("2", 7)) == "generation 2 crashed"
        assert record.why_bad(_spec("1")) == ""
    (file,) = (tmp_path / "state").iterdir()
    assert file.stat().st_mode & 0o077 == 0


def test_without_a_folder_or_with_a_broken_one_a_server_begins_anew(tmp_path: Path) -> None:
    none = last_good.LastGood("")
    none.keep(_spec("1"))
    assert none.good == _spec("1")
    (tmp_path / "last_good.json").write_text("{")
    assert last_good.LastGood(str(tmp_path)).good is None
    (tmp_path / "file").write_text("")
    unwritable = last_good.LastGood(str(tmp_path / "file" / "state"))
    unwritable.keep(_spec("1"))
    assert unwritable.good == _spec("1")


def test_the_board_shows_who_turns_and_who_has_fewest() -> None:
    clock = Clock()
    known = board.Board(board.Board.create(4).fd, clock=lambda: int(clock.now * 1e9))
    assert known.fewest(1) is None
    assert known.age_s(1) == float("inf")
    known.beat(1, 5)
    known.beat(2, 3)
    clock.now += 1
    known.beat(3, 7)
    assert (known.fewest(1), known.fewest(2), known.connections(3)) == (3, 5, 7)
    assert known.age_s(2) == pytest.approx(1)
    clock.now += board.STALE_S - 0.5
    # Who does not turn takes no connections: nobody waits for it to have more.
    assert known.fewest(1) == 7
    known.clear(3)
    assert known.fewest(1) is None


def test_bounds_on_the_command_line_are_those_of_every_endpoint() -> None:
    wanted = spec.Spec((*_spec("1").endpoints, spec.Endpoint("n", (spec.Arm("sha256:2", "2"),), slo_p99_ms=9.0)))
    assert serve.bounded(wanted, {}) == wanted
    bound = serve.bounded(wanted, {"slo_p99_ms": 20.0, "max_queue_ms": 50.0}).endpoints
    assert [(e.name, e.slo_p99_ms, e.max_queue_ms) for e in bound] == [("m", 20.0, 50.0), ("n", 20.0, 50.0)]


@pytest.mark.parametrize(
    ("cores", "wanted", "programs", "workers", "reason"),
    [(4, 0, 1, 1, "its own 1 process for"), (4, 2, 2, 2, "its own 2 processes for"), (1, 0, 1, 1, "one core")],
)
def test_models_apart_count_in_the_plan(cores: int, wanted: int, programs: int, workers: int, reason: str) -> None:
    plan = sizing.choose(cores, wanted, MB, programs)
    assert plan.workers == workers
    assert reason in plan.reason
