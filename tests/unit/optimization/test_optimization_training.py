"""The training loop: it learns, stops, goes on where it was, and says why it cannot."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.optimization.techniques import base
from windlass.optimization.training import fit, networks, objective, state

PLAN = fit.Plan(("x",), epochs=4, batch=32, rate=1e-2, threads=1)


class Net(torch.nn.Module):
    """A network with everything that makes a run depend on its order: normalization, dropout, moments."""

    def __init__(self, outputs: int = 3, *, softmax: bool = False) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(6, 16)
        self.norm = torch.nn.BatchNorm1d(16)
        self.drop = torch.nn.Dropout(0.2)
        self.head = torch.nn.Linear(16, outputs)
        self.softmax = softmax

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer = self.head(self.drop(torch.relu(self.norm(self.inner(x)))))
        return torch.softmax(answer, 1) if self.softmax else answer


def net(outputs: int = 3, **more: Any) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net(outputs, **more)


def lesson(rows: int = 256, seed: int = 0) -> base.Lesson:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows + 64, 6)).astype(np.float32)
    labels = (x[:, :3] + 0.3 * rng.standard_normal((rows + 64, 3))).argmax(axis=1)
    return base.Lesson({"x": x[:rows]}, labels[:rows], {"x": x[rows:]}, labels[rows:])


def weights(network: torch.nn.Module) -> list[bytes]:
    return [value.numpy().tobytes() for value in network.state_dict().values()]


def ticking(step_s: float) -> Callable[[], float]:
    """A clock on which a step of training takes `step_s`, and each look `step_s` too."""
    now = [0.0]

    def clock() -> float:
        now[0] += step_s
        return now[0]

    return clock


def test_it_learns_and_leaves_the_network_as_it_was() -> None:
    given_net, threads = net().train(), torch.get_num_threads()
    before, drawn = weights(given_net), torch.random.get_rng_state()
    fitted = fit.fit(given_net, lesson(), PLAN)
    assert fitted.history[-1] < 0.6 * fitted.history[0]
    assert len(fitted.history) == fit.EVALUATIONS + 1
    assert (fitted.steps, fitted.stopped) == (32, "its 32 steps were done")
    assert weights(given_net) == before
    assert given_net.training
    assert not any(module.training for module in fitted.network.modules())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_the_same_seed_gives_the_same_network_and_another_seed_another() -> None:
    first, second = fit.fit(net(), lesson(), PLAN), fit.fit(net(), lesson(), PLAN)
    assert weights(first.network) == weights(second.network)
    other = fit.fit(net(), lesson(), msgspec.structs.replace(PLAN, seed=1))
    assert weights(other.network) != weights(first.network)


@settings(max_examples=4, deadline=None)
@given(stop=st.integers(1, 32))
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    tmp_path_factory: pytest.TempPathFactory, stop: int
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    plan = msgspec.structs.replace(PLAN, seconds=1e9)
    calls = []

    def interrupt(_: Any, part: float) -> None:
        calls.append(part)
        if len(calls) == stop + 1:
            raise KeyboardInterrupt

    whole = fit.fit(net(), lesson(), plan)
    # Every look at this clock is long after the last one, so that the state is kept after each step.
    clock = ticking(100.0)
    with pytest.raises(KeyboardInterrupt):
        fit.fit(net(), lesson(), plan, kept=folder, on_step=interrupt, clock=clock)
    said: list[str] = []
    rest = fit.fit(net(), lesson(), plan, kept=folder, say=said.append, clock=clock)
    assert weights(rest.network) == weights(whole.network)
    assert rest.history == whole.history
    assert said[0] == (f"Going on at step {stop - 1} of 32." if stop > 1 else "step 0 of 32: holdout loss 1.195")
    again = fit.fit(net(), lesson(), plan, kept=folder, say=said.append, clock=clock)
    assert weights(again.network) == weights(whole.network)
    assert said[-1] == "Trained 32 steps: its 32 steps were done."
    assert [path.suffix for path in folder.iterdir()] == [".tensors"]


def test_what_was_kept_of_another_run_or_is_damaged_is_not_believed(tmp_path: Path) -> None:
    fit.fit(net(), lesson(), PLAN, kept=tmp_path)
    for other in (msgspec.structs.replace(PLAN, seed=1), msgspec.structs.replace(PLAN, purpose="half the weights")):
        said: list[str] = []
        fit.fit(net(), lesson(), other, kept=tmp_path, say=said.append)
        assert said[0].startswith("step 0 of 32")
    said = []
    fit.fit(net(), lesson(seed=1), PLAN, kept=tmp_path, say=said.append)
    assert said[0].startswith("step 0 of 32")
    whole = sorted(tmp_path.iterdir())
    assert len(whole) == 4
    for path in whole:
        path.write_bytes(path.read_bytes()[:-7])
    said = []
    assert fit.fit(net(), lesson(), PLAN, kept=tmp_path, say=said.append).steps == 32
    assert said[0].startswith("step 0 of 32")
    # One run's state under another run's name.
    kept = state.Kept(tmp_path, "f" * 64)
    (tmp_path / whole[0].name).rename(tmp_path / f"fit-{'f' * 16}.tensors")
    assert kept.read() is None


def test_the_steps_are_those_that_the_time_allows() -> None:
    plan = msgspec.structs.replace(PLAN, epochs=100, seconds=100.0)
    fitted = fit.fit(net(), lesson(), plan, clock=ticking(0.5))
    assert 30 <= fitted.steps < 100
    assert fitted.seconds <= 105
    assert len(fitted.history) >= fit.EVALUATIONS - 5
    ample = fit.fit(net(), lesson(), msgspec.structs.replace(plan, epochs=4, seconds=1e4), clock=ticking(0.5))
    assert ample.steps == 32


def test_a_time_that_ends_before_there_is_a_result_is_said() -> None:
    plan = msgspec.structs.replace(PLAN, seconds=4.0, settled=0.9)
    with pytest.raises(errors.CaptureFailed, match=r"its 4 s were used up after \d of 32 steps.*--time"):
        fit.fit(net(), lesson(), plan, clock=ticking(0.5))
    short = fit.fit(net(), lesson(), msgspec.structs.replace(plan, settled=0.0), clock=ticking(0.5))
    assert "its 4 s were used up" in short.stopped


def test_what_stays_above_its_reference_is_given_up() -> None:
    with pytest.raises(
        errors.CaptureFailed, match=r"given up at step \d+ of 32: the holdout loss, .* stayed above 0.01"
    ):
        fit.fit(net(), lesson(), msgspec.structs.replace(PLAN, reference=(1.2, 0.01)))
    rows = lesson()
    hopeless = msgspec.structs.replace(rows, holdout_labels=(rows.holdout_labels + 1) % 3)
    with pytest.raises(errors.CaptureFailed, match="given up"):
        fit.fit(net(), hopeless, PLAN)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    broken = lesson()
    broken.inputs["x"][10, 2] = np.inf
    with pytest.raises(errors.CaptureFailed, match=r"the loss is nan at step \d of 32"):
        fit.fit(net(), broken, PLAN)


def test_weights_that_were_pruned_stay_zero() -> None:
    pruned = net()
    with torch.no_grad():
        pruned.inner.weight[:, :3] = 0.0
    fitted = fit.fit(pruned, lesson(), PLAN).network
    assert torch.equal(fitted.inner.weight == 0, pruned.inner.weight == 0)


def test_a_network_that_was_frozen_for_use_is_trained() -> None:
    frozen = net().requires_grad_(False)
    fitted = fit.fit(frozen, lesson(), PLAN)
    assert fitted.history[-1] < fitted.history[0]
    assert not any(p.requires_grad for p in frozen.parameters())


def test_a_teacher_alone_is_enough() -> None:
    known = fit.fit(net(), lesson(), PLAN).network
    rows = lesson()
    alone = base.Lesson(rows.inputs, None, {}, None, (networks.answers(known, ("x",), rows.inputs),))
    for loss in ("auto", "classes"):
        fitted = fit.fit(net(), alone, msgspec.structs.replace(PLAN, loss=loss))
        same = networks.answers(fitted.network, ("x",), rows.holdout_inputs).argmax(axis=1)
        right = networks.answers(known, ("x",), rows.holdout_inputs).argmax(axis=1)
        assert (same == right).mean() > 0.8


@pytest.mark.parametrize("outputs", [1, 3], ids=["one score", "probabilities"])
def test_scores_of_other_kinds_are_learned_too(outputs: int) -> None:
    rows = lesson()
    if outputs == 1:
        rows = base.Lesson(rows.inputs, rows.labels == 0, rows.holdout_inputs, rows.holdout_labels == 0)
    fitted = fit.fit(net(outputs, softmax=outputs > 1), rows, PLAN)
    assert fitted.history[-1] < 0.75 * fitted.history[0]


def test_values_are_learned_and_told_in_their_own_spread() -> None:
    rows = lesson()
    starts = []
    for unit in (1.0, 100.0):
        target, held = (inputs["x"][:, 0] * np.float32(unit) for inputs in (rows.inputs, rows.holdout_inputs))
        network = net(1)
        with torch.no_grad():
            network.head.weight.mul_(unit)
            network.head.bias.mul_(unit)
        fitted = fit.fit(network, base.Lesson(rows.inputs, target, rows.holdout_inputs, held), PLAN)
        assert min(fitted.history) < 0.9 * fitted.history[0]
        starts.append(fitted.history[0])
    assert starts[0] == pytest.approx(starts[1], rel=1e-3)


BAD: dict[str, tuple[Callable[[base.Lesson], base.Lesson], str]] = {
    "a class too many": (
        lambda x: msgspec.structs.replace(x, labels=np.where(np.arange(256) == 7, 3, x.labels)),
        r"labels hold class 3 \(row 7\): the network scores 3 classes",
    ),
    "a negative class": (lambda x: msgspec.structs.replace(x, labels=x.labels - 1), r"labels hold class -1"),
    "a class held out": (
        lambda x: msgspec.structs.replace(x, holdout_labels=x.holdout_labels + 2),
        r"holdout labels hold class \d",
    ),
    "labels of other rows": (lambda x: msgspec.structs.replace(x, labels=x.labels[:9]), "9 labels for 256 rows"),
    "holdout labels of other rows": (
        lambda x: msgspec.structs.replace(x, holdout_labels=x.holdout_labels[:9]),
        "9 holdout labels for 64 rows",
    ),
    "nobody knows": (lambda x: msgspec.structs.replace(x, labels=None), "neither labels nor a teacher"),
    "no rows": (lambda x: base.Lesson({"x": x.inputs["x"][:0]}, x.labels[:0], {}, None), "no rows to learn from"),
    "one row": (lambda x: base.Lesson({"x": x.inputs["x"][:1]}, x.labels[:1], {}, None), "one row is too few"),
    "another input": (lambda x: base.Lesson({"y": x.inputs["x"]}, x.labels, {}, None), "hold no 'x'"),
    "labels of two axes": (
        lambda x: msgspec.structs.replace(x, labels=np.zeros((256, 2), np.int64)),
        "one class number for each row",
    ),
    "values of another shape": (
        lambda x: msgspec.structs.replace(x, labels=np.zeros((256, 5), np.float32)),
        r"answers with \[3\] for a row, and the labels are \[5\]",
    ),
    "values that are none": (
        lambda x: msgspec.structs.replace(x, labels=np.where(np.arange(256) == 4, np.nan, 1.0)),
        r"labels hold values that are not finite \(row 4\)",
    ),
    "another teacher": (
        lambda x: msgspec.structs.replace(x, teachers=(np.zeros((256, 7), np.float32),)),
        r"a teacher answers with \[7\] for a row, the network with \[3\]",
    ),
    "rows of another width": (
        lambda x: base.Lesson({"x": x.inputs["x"][:, :5]}, x.labels, {}, None),
        r"the network fails on x \[4, 5\] float32",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_lesson_that_does_not_fit_is_refused(case: str) -> None:
    spoil, told = BAD[case]
    with pytest.raises((errors.UsageError, errors.CaptureFailed), match=told):
        fit.fit(net(), spoil(lesson()), PLAN)


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="nothing to train"):
        fit.fit(torch.nn.Identity(), base.Lesson({"x": np.ones((9, 3), np.float32)}, np.zeros(9, int), {}, None), PLAN)


@settings(max_examples=25, deadline=None)
@given(logits=st.lists(st.floats(-20, 20), min_size=1, max_size=8), right=st.integers(0, 1))
def test_one_score_is_that_of_the_second_of_two_classes(logits: list[float], right: int) -> None:
    score = torch.tensor(logits)
    wanted = torch.full_like(score, right)
    found = torch.nn.functional.cross_entropy(objective.scores(score, probabilities=False), wanted.long())
    expected = torch.nn.functional.binary_cross_entropy_with_logits(score, wanted)
    assert torch.isclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_best_state_is_what_comes_back() -> None:
    worse: list[float] = []

    def spoil(network: Any, part: float) -> None:
        worse.append(part)
        if part > 0.8:
            with torch.no_grad():
                network.head.weight.zero_()

    rows = lesson()
    fitted = fit.fit(net(), rows, PLAN, on_step=spoil)
    assert fitted.network.head.weight.any()
    asked = copy.deepcopy(fitted.network)
    right = networks.answers(asked, ("x",), rows.holdout_inputs)
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(right), torch.from_numpy(rows.holdout_labels))
    assert float(loss) == pytest.approx(min(fitted.history), rel=1e-4)
