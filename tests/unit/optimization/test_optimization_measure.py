"""Timing in pairs: what is equal is called equal, what differs is found, under drift, bursts and luck with memory."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest

from windlass.optimization import form as forms
from windlass.optimization import measure, runnable

INPUTS = {"x": np.zeros((1, 2), np.float32)}


class World:
    """A machine: its clock rate drifts, other work comes in bursts, runs are late now and then."""

    def __init__(self, seed: int, *, drift: float = 0.0, bursts: bool = False, luck: float = 0.0) -> None:
        self.now = 0.0
        self.random = np.random.default_rng(seed)
        self.drift, self.bursts, self.luck = drift, bursts, luck
        self.busy = 1.0
        self.open = 0
        self.asked: list[str] = []

    def clock(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        late, burst, noise = self.random.random(3)
        factor = 1.0 + self.drift * math.sin(self.now / 0.2) + 0.05 * noise
        if self.bursts:
            if late < 0.03:
                factor += self.random.pareto(1.2) / 2
            if burst < 0.01:
                self.busy = 1.0 if self.busy > 1.0 else 1.6
        self.now += seconds * factor * self.busy


class Model:
    """Takes so long; wherever it is loaded, it is a little quicker or slower for good."""

    inside = True

    def __init__(self, world: World, seconds: float, name: str = "") -> None:
        self.world, self.seconds, self.name = world, seconds, name
        self.taken = seconds * math.exp(world.random.normal(0.0, world.luck))
        world.open += 1

    def run(self, inputs: object) -> dict[str, np.ndarray]:
        self.world.asked.append(self.name)
        self.world.spend(self.taken)
        return {}

    def again(self) -> Model:
        return Model(self.world, self.seconds, self.name)

    def close(self) -> None:
        self.world.open -= 1


def timed(world: World, ratio: float = 1.0, seconds: float = 0.003, **method: float):
    chosen = measure.Method(seed=int(world.random.integers(1 << 30)), **method)
    pair = Model(world, seconds * ratio, "a"), Model(world, seconds, "b")
    return measure.pair(*pair, INPUTS, rows=1, threads=1, method=chosen, clock=world.clock)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"luck": 0.04},
        {"drift": 0.3},
        {"drift": 0.3, "bursts": True, "luck": 0.04},
    ],
    ids=["quiet", "luck", "drift", "all"],
)
def test_a_form_beside_itself_is_no_significant_change(kind: dict[str, float]) -> None:
    found = [timed(World(seed, **kind), most_repeats=60) for seed in range(60)]
    same = sum(one.verdict == "no significant change" for one in found)
    assert same >= 0.95 * len(found)
    assert all(one.low <= one.speedup <= one.high for one in found)


def test_hurried_it_still_calls_equal_what_is_equal() -> None:
    found = [timed(World(seed, drift=0.2, bursts=True, luck=0.04), most_s=0.0) for seed in range(100)]
    assert sum(one.verdict == "no significant change" for one in found) >= 95
    assert {one.repeats for one in found} == {10}


@pytest.mark.parametrize(("ratio", "verdict"), [(1.3, "faster"), (0.77, "slower"), (3.0, "faster")])
def test_what_differs_is_found(ratio: float, verdict: str) -> None:
    found = [timed(World(seed, drift=0.3, bursts=True, luck=0.03), ratio) for seed in range(20)]
    assert [one.verdict for one in found] == [verdict] * 20
    assert sum(one.low <= ratio <= one.high for one in found) >= 18


def test_what_is_clear_needs_no_more_rounds_and_what_is_not_gets_them() -> None:
    assert timed(World(1), 2.0).repeats == 30
    assert timed(World(1, luck=0.05), 1.001).repeats == 120
    assert timed(World(1, luck=0.05), 1.001, most_s=1.0).repeats < 120


def test_milliseconds_are_of_one_run_whatever_a_block_has() -> None:
    world = World(0)
    found = timed(world, 2.0, seconds=1e-5)
    assert found.baseline_ms == pytest.approx(0.0205, rel=0.02)
    assert found.candidate_ms == pytest.approx(0.01025, rel=0.02)
    assert (found.rows, found.threads) == (1, 1)


def test_either_is_first_and_both_are_loaded_again() -> None:
    world = World(0)
    loaded: list[Model] = []

    class Counted(Model):
        def again(self) -> Model:
            loaded.append(Counted(self.world, self.seconds, self.name))
            return loaded[-1]

    pair = Counted(world, 0.003, "a"), Counted(world, 0.006, "b")
    measure.pair(*pair, INPUTS, rows=1, threads=1, clock=world.clock)
    order = "".join(world.asked)
    assert "aabb" in order
    assert "bbaa" in order
    assert [model.name for model in loaded].count("a") == [model.name for model in loaded].count("b") == 5
    assert world.open == 2  # those that were given stay open


def test_a_run_that_fails_leaves_nothing_behind() -> None:
    world = World(0)

    class Failing(Model):
        def run(self, inputs: object) -> dict[str, np.ndarray]:
            if len(self.world.asked) > 60:
                raise ValueError("no more")
            return super().run(inputs)

        def again(self) -> Model:
            return Failing(self.world, self.seconds)

    gc.enable()
    with pytest.raises(ValueError, match="no more"):
        measure.pair(Failing(world, 0.003), Failing(world, 0.003), INPUTS, rows=1, threads=1, clock=world.clock)
    assert world.open == 2
    assert gc.isenabled()


def test_no_garbage_is_collected_meanwhile() -> None:
    world = World(0)
    seen = []

    class Looking(Model):
        def run(self, inputs: object) -> dict[str, np.ndarray]:
            seen.append(gc.isenabled())
            return super().run(inputs)

    gc.enable()
    assert measure.alone(Looking(world, 0.002), INPUTS, clock=world.clock) == pytest.approx(0.00205, rel=0.02)
    assert not any(seen)
    assert gc.isenabled()


def test_settings_are_every_number_of_threads_with_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(0)

    class Rows(Model):
        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            self.world.spend(self.seconds * len(inputs["x"]))
            return {}

    monkeypatch.setattr(runnable, "open", lambda form, *, threads: Rows(world, 0.01 / threads))
    batches = {rows: {"x": np.zeros((rows, 2), np.float32)} for rows in (1, 4)}
    found = measure.settings(forms.Form({}), batches, threads=(1, 2), clock=world.clock)
    assert [(one.threads, one.rows) for one in found] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    assert [one.ms for one in found] == pytest.approx([10.25, 41, 5.125, 20.5], rel=0.02)
    assert [one.rows_per_s for one in found] == pytest.approx([97.6, 97.6, 195, 195], rel=0.02)
    assert world.open == 0


def test_bytes_are_those_of_the_files_and_of_each_deflated() -> None:
    form = forms.Form({"model.onnx": bytes(100_000), "model.onnx.data": np.random.default_rng(0).bytes(1000)})
    found = measure.footprint(form, INPUTS, peak=False)
    assert found.files == 101_000
    assert 1000 < found.deflated < 1300
    assert found.peak == 0


def test_the_machine_is_told_with_its_instruction_sets() -> None:
    told = measure.machine()
    assert told["isa"].split()[0] in ("x86_64", "aarch64")
    assert {"cpu", "cores", "software", "versions"} <= set(told)
