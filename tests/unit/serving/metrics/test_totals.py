"""Counters in shared memory: added up over regions, folded when a worker ends, never back and never double."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors, telemetry
from windlass.serving.metrics import counters, regions, totals


@pytest.fixture
def memory() -> Iterator[totals.Memory]:
    made = totals.Memory.create(3)
    yield made
    os.close(made.fd)


def count(worker: counters.Counters, outcome: int, latency_s: float = 0.001) -> None:
    series = worker.requests_of("m", "1", "p")
    series.admitted[0] += 1
    series.outcomes[outcome] += 1
    series.latency.observe(latency_s)


def outcomes(found: counters.Counters) -> dict[str, int]:
    return dict(zip(counters.OUTCOMES, found.requests_of("m", "1", "p").outcomes, strict=True))


def test_workers_are_added_up_whatever_order_they_count_in(memory: totals.Memory) -> None:
    one, other = memory.writer(1), memory.writer(2)
    other.count_error("beside")
    for worker, requests in ((one, 3), (other, 5)):
        for _ in range(requests):
            count(worker, counters.OK)
        worker.runs_of("m", "1").ran(requests, 0.25, [0.5], 7.0 + requests)
        worker.count_rejected("overloaded")
        worker.gauge(telemetry.CONNECTIONS)[0] = requests
    found = totals.Memory.attach(memory.fd).read()
    assert outcomes(found)["ok"] == 8
    assert found.rejected == {"overloaded": 2}
    assert found.errors == {"beside": 1}
    assert found.gauge(telemetry.CONNECTIONS)[0] == 8
    told = found.statistics("m", "1")
    assert (told.inference_count, told.execution_count, told.success_count) == (8, 2, 8)
    assert (told.compute_infer_ns, told.queue_ns) == (500_000_000, 1_000_000_000)
    assert told.batches == {3: (1, 250_000_000), 5: (1, 250_000_000)}
    assert told.last_inference_ms == 12_000


def test_a_read_twice_is_the_same(memory: totals.Memory) -> None:
    count(memory.writer(1), counters.OK)
    assert [outcomes(memory.read())["ok"] for _ in range(3)] == [1, 1, 1]


@pytest.mark.promise("P-51")
def test_what_a_dead_worker_had_in_flight_has_failed(memory: totals.Memory) -> None:
    worker = memory.writer(1)
    count(worker, counters.OK)
    worker.requests_of("m", "1", "p").admitted[0] += 2
    worker.gauge(telemetry.CONNECTIONS)[0] = 9
    assert memory.fold(1) == 2
    found = memory.read()
    assert outcomes(found) == {"ok": 1, "failed": 2, "expired": 0, "cancelled": 0, "rejected": 0}
    assert found.errors == {totals.LOST: 2}
    # Its gauges ended with it.
    assert found.gauge(telemetry.CONNECTIONS)[0] == 0
    assert memory.fold(1) == 0
    assert outcomes(memory.read())["failed"] == 2


def test_a_place_is_used_again(memory: totals.Memory) -> None:
    reader = totals.Memory.attach(memory.fd)
    for _ in range(4):
        worker = memory.writer(2)
        count(worker, counters.OK)
        # Declared elsewhere than by the worker before it.
        worker.counter(telemetry.LOG_DROPPED, str(reader.read().requests_of("m", "1", "p").outcomes[0]))
        count(worker, counters.CANCELLED)
        reader.read()
        memory.fold(2)
    assert outcomes(reader.read()) == {"ok": 4, "failed": 0, "expired": 0, "cancelled": 4, "rejected": 0}


Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(("count", "admit", "run", "error", "fold", "read")), st.integers(1, 3), st.integers(0, 4)
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_totals_are_what_was_counted_at_every_moment(taken: list[Step]) -> None:
    memory = totals.Memory.create(3)
    reader = totals.Memory.attach(memory.fd)
    workers = {place: memory.writer(place) for place in (1, 2, 3)}
    wanted: dict[str, Any] = {"outcomes": [0] * 5, "flying": dict.fromkeys((1, 2, 3), 0), "rows": 0, "lost": 0}
    for what, place, number in taken:
        if what == "count":
            count(workers[place], number)
            wanted["outcomes"][number] += 1
        elif what == "admit":
            workers[place].requests_of("m", "1", "p").admitted[0] += 1
            wanted["flying"][place] += 1
        elif what == "run":
            workers[place].runs_of("m", "1").ran(number + 1, 0.5, [0.0], 1.0)
            wanted["rows"] += number + 1
        elif what == "fold":
            lost = wanted["flying"][place]
            assert memory.fold(place) == lost
            wanted["outcomes"][counters.FAILED] += lost
            wanted["lost"] += lost
            wanted["flying"][place] = 0
            workers[place] = memory.writer(place)
        for found in (memory.read(), reader.read()):
            series = found.requests_of("m", "1", "p")
            assert series.outcomes.tolist() == wanted["outcomes"]
            assert series.in_flight == sum(wanted["flying"].values())
            assert series.admitted[0] == sum(series.outcomes) + series.in_flight
            assert found.statistics("m", "1").inference_count == wanted["rows"]
            assert found.errors.get(totals.LOST, 0) == wanted["lost"]
    os.close(memory.fd)


def test_a_reader_in_the_middle_of_a_fold_sees_neither_half(
    memory: totals.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, late = totals.Memory.attach(memory.fd), totals.Memory.attach(memory.fd)
    count(memory.writer(1), counters.OK)
    reader.read()
    clear = regions.Region.clear
    seen: list[Any] = []

    def clear_under_a_reader(region: regions.Region) -> None:
        seen.append(outcomes(reader.read())["ok"])
        clear(region)
        seen.append(outcomes(reader.read())["ok"])
        try:
            late.read()
        except errors.Unavailable as e:
            seen.append(e)

    monkeypatch.setattr(regions.Region, "clear", clear_under_a_reader)
    memory.fold(1)
    assert seen[:2] == [1, 1]
    assert isinstance(seen[2], errors.Unavailable)
    assert outcomes(reader.read())["ok"] == outcomes(late.read())["ok"] == 1


def test_a_full_region_counts_on_under_one_label(memory: totals.Memory) -> None:
    worker = memory.writer(1)
    room = (regions.BYTES // 8 - regions.SLOTS_AT) // len(counters.KINDS["runs"])
    for index in range(room + 5):
        worker.runs_of(f"m{index}", "1").ran(1, 0.1, [0.1], 1.0)
    found = memory.read()
    kept = sum(one.rows[0] for key, one in found.runs.items() if key[0] != counters.OVERFLOW)
    rest = found.runs_of(counters.OVERFLOW, "").rows[0]
    assert kept + rest == room + 5
    assert rest >= 5
    assert found.counter(telemetry.OVERFLOWED)[0] == rest
    memory.fold(1)
    again = memory.read()
    assert sum(one.rows[0] for one in again.runs.values()) == room + 5


def test_models_that_come_and_go_take_no_more_room(memory: totals.Memory) -> None:
    worker = memory.writer(1)
    worker.runs_of("m", "1")
    count(worker, counters.OK)
    used = worker.region.words[regions.USED]
    for _ in range(1_000):
        worker.runs_of("m", "1").ran(1, 0.1, [0.1], 1.0)
        count(worker, counters.OK)
    assert worker.region.words[regions.USED] == used


def by_generation(found: counters.Counters) -> dict[int, int]:
    return {key[1]: sum(one.outcomes[counters.OK] for one in series) for key, series in found.arms("m").items()}


def test_generations_of_an_arm_are_bounded_and_no_count_is_lost(memory: totals.Memory) -> None:
    reader = totals.Memory.attach(memory.fd)
    kept = counters.GENERATIONS
    workers = {place: memory.writer(place) for place in (1, 2)}
    used = [0, 0]
    counted: dict[int, int] = {}
    for generation in range(1, 10 * kept):
        place = 1 + generation % 2
        # Every third is asked in both, so that their lists differ.
        for worker in workers.values() if generation % 3 == 0 else (workers[place],):
            series = worker.requests_of("m", "1", "p", "a", generation)
            series.admitted[0] += generation
            series.outcomes[counters.OK] += generation
            series.latency.observe(0.5)
            counted[generation] = counted.get(generation, 0) + generation
        if generation % 37 == 0:
            memory.fold(place)
            workers[place] = memory.writer(place)
        found = by_generation(reader.read())
        assert sum(found.values()) == sum(counted.values())
        assert reader.read().statistics("m", "1").success_ns == round(5e8 * sum(g > 0 for g in _asked(counted)))
        # The last ones are told apart, and none of them is mixed with another.
        assert all(found[each] == counted[each] for each in found if each > 0 and each > generation - kept // 2)
        assert all(found[each] <= counted[each] for each in found if each > 0)
        assert len(found) <= 3 * kept + 1
        used.append(max(w.region.words[regions.USED] for w in workers.values()))
    assert used[-1] <= used[6 * kept]


def _asked(counted: dict[int, int]) -> list[int]:
    return [g for g, count in counted.items() for _ in range(count // g)]


def test_generations_are_an_endpoints_whatever_its_arms(memory: totals.Memory) -> None:
    kept = counters.GENERATIONS
    worker = memory.writer(1)
    used = []
    # Each version is a candidate for ten generations, then the baseline for ten: as rollouts come one after another.
    for generation in range(1, 6 * kept + 1):
        newest = 102 + generation // 10
        for version in (str(newest - 1), str(newest)):
            worker.requests_of("m", version, "p", version, generation).outcomes[counters.OK] += 1
        used.append(worker.region.words[regions.DIRECTORY])
    found = memory.read().arms("m")
    apart: dict[int, int] = {}
    for (_, generation), every in found.items():
        if generation > 0:
            apart[generation] = apart.get(generation, 0) + sum(one.outcomes[counters.OK] for one in every)
    assert [apart[each] for each in range(5 * kept + 1, 6 * kept + 1)] == [2] * kept
    assert len(apart) == kept
    assert sum(one.outcomes[counters.OK] for every in found.values() for one in every) == 12 * kept
    # From then on each version adds the lines of its own past alone.
    lines = (used[-1] - used[4 * kept]) / (2 * kept / 10)
    assert lines < 2 * len('["requests",1234567,["m","100","p","100","0000000001"]]')
    assert memory.read().statistics("m", "111").success_count == sum(
        one.outcomes[counters.OK] for (arm, _), every in found.items() if arm == "111" for one in every
    )


def test_a_generation_with_requests_under_way_is_not_replaced(memory: totals.Memory) -> None:
    worker = memory.writer(1)
    first = worker.requests_of("m", "1", "p", "a", 1)
    first.admitted[0] += 1
    for generation in range(2, 3 * counters.GENERATIONS):
        worker.requests_of("m", "1", "p", "a", generation)
    first.outcomes[counters.OK] += 1
    assert by_generation(memory.read())[1] == 1


def test_a_reader_while_a_generation_is_replaced_reads_again(
    memory: totals.Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = memory.writer(1)
    for generation in range(1, counters.GENERATIONS + 1):
        worker.requests_of("m", "1", "p", "a", generation).outcomes[counters.OK] += 1
    rename = regions.Region.rename
    seen: list[dict[int, int]] = [by_generation(memory.read())]

    def rename_under_a_reader(region: regions.Region, *arguments: Any) -> None:
        seen.append(by_generation(memory.read()))
        rename(region, *arguments)

    monkeypatch.setattr(regions.Region, "rename", rename_under_a_reader)
    worker.requests_of("m", "1", "p", "a", 99)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert by_generation(memory.read())[counters.EARLIER] == 1


def test_a_worker_killed_while_it_replaces_one_is_folded_and_read(memory: totals.Memory) -> None:
    worker = memory.writer(1)
    count(worker, counters.OK)
    worker.region.words[regions.EPOCH] += 1
    memory.fold(1)
    count(memory.writer(1), counters.OK)
    assert outcomes(memory.read())["ok"] == 2


def test_another_process_is_told_when_it_was_given_something_else(tmp_path: Any) -> None:
    for content in (b"", b"x" * 8_192):
        path = tmp_path / "file"
        path.write_bytes(content)
        with path.open("r+b") as file, pytest.raises(errors.UsageError):
            totals.Memory.attach(file.fileno())


def test_nobody_can_cut_the_memory_short(memory: totals.Memory) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 0)
