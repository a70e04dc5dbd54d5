"""One training loop for all techniques that train.

Called by the techniques that train. Must never change the network it was given, nor look at rows but the lesson's.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from windlass import errors
from windlass.optimization.techniques import base
from windlass.optimization.training import networks, objective, state

# The holdout is asked this often, evenly over the steps.
EVALUATIONS = 20
# After these steps it is known how long one takes, so whether the time allows all of them.
_TIMED_AFTER = 10
# A fit is given up when it was above its reference this often in a row, in the part where it should have learned.
_PATIENCE = 4
_LEARNED_BY = 1 / 3
_KEPT_EVERY_S = 15.0
# What is left of the time when the steps are counted out: not every step takes as long.
_MARGIN = 0.9
_HOPELESS = 1e30
# Weights with more zeros than this were made so.
_PRUNED = 0.25
_CLIP = 1.0


class Plan(msgspec.Struct, frozen=True):
    """How to train. `inputs` names what the network takes, in the signature's order.

    `epochs` are passes over the rows in batches of `batch`, in all at least `least_steps` of them; fewer where
    `seconds` do not allow them. `loss`: `classes` is cross-entropy, `values` the mean squared error, `auto` tells by
    the labels. Of the loss `alpha` is the teachers' part, at `temperature` (Hinton, Vinyals and Dean, 2015).
    `threads` 0: as torch is set. States before the part `settled` of the steps are no result. `reference` are the
    holdout losses of a fit that did not go well enough, at equal parts of the steps: one that stays above them is
    given up (empty: the loss of knowing only how frequent each answer is, once it falls no more). `purpose` is what
    else the result depends on: it keeps the states of runs apart.
    """

    inputs: tuple[str, ...]
    seconds: float = 600.0
    seed: int = 0
    epochs: float = 5.0
    least_steps: int = 0
    batch: int = 64
    rate: float = 1e-3
    decay: float = 1e-4
    loss: Literal["auto", "classes", "values"] = "auto"
    alpha: float = 0.5
    temperature: float = 2.0
    threads: int = 0
    settled: float = 0.0
    reference: tuple[float, ...] = ()
    purpose: str = ""


class Fitted(msgspec.Struct, frozen=True):
    """A trained copy of the network (eval mode, the best state on the holdout), and how it went.

    `history` are the holdout losses, evenly over the steps, the first before training; `stopped` says in a sentence
    why it ended.
    """

    network: Any
    history: tuple[float, ...]
    steps: int
    seconds: float
    stopped: str


def fit(
    network: Any,
    lesson: base.Lesson,
    plan: Plan,
    *,
    kept: Path | None = None,
    on_step: Callable[[Any, float], None] = lambda _network, _part: None,
    say: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Fitted:
    """Train a copy of `network` on the lesson: AdamW (Loshchilov and Hutter, 2019), cosine schedule, clipped gradients.

    `on_step` is called with the copy and the part of the steps done (0 to 1) before the first and after every step,
    and when a run goes on: masks are held there. Weights of which many are zero were pruned, and stay so. `kept` is a
    folder for the state: the same call goes on from it, and ends with the same network as one that was not interrupted.
    The same seed gives the same network, on the same machine and threads, unless the time decides how many steps there
    are. `CaptureFailed` where the loss is not finite, the network does not run, learns nothing, or the time ends first;
    `UsageError` where the lesson does not fit it.
    """
    with _settings(plan):
        run = _Run(network, lesson, plan, on_step)
        saved = state.Kept(kept, _identity(run, plan))
        return _Loop(run, plan, saved, say, clock).go()


class _Run:
    """What is trained: the copy, its objective, its rows, its optimizer."""

    def __init__(
        self, network: torch.nn.Module, lesson: base.Lesson, plan: Plan, on_step: Callable[[Any, float], None]
    ) -> None:
        self.network = networks.copied(network)
        self.on_step = on_step
        self.objective, self.rows, self.held = objective.choose(
            self.network, lesson, plan.inputs, loss=plan.loss, alpha=plan.alpha, temperature=plan.temperature
        )
        self.seed = plan.seed
        self.rate = plan.rate
        self.count = networks.rows(self.rows.inputs)
        self.batch = min(plan.batch, self.count)
        self.per_epoch = self.count // self.batch
        self.steps = max(1, plan.least_steps, math.ceil(plan.epochs * self.per_epoch))
        trained = [p for p in self.network.parameters() if p.requires_grad]
        if not trained:
            raise errors.UsageError("the network has no weights of floats, so there is nothing to train.")
        # Biases and normalization are not pulled towards zero.
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": plan.decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=plan.rate)
        # A network that was pruned stays pruned.
        zeros = [(p, float((p == 0).float().mean())) for p in trained if p.ndim > 1]
        self.masks = [(p, p.detach() != 0) for p, share in zeros if _PRUNED < share < 1]

    def step(self, number: int, total: int) -> None:
        """One batch. What is random in it depends on the seed and its number only."""
        epoch, position = divmod(number, self.per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        some = self.rows.pick(np.sort(order[position * self.batch : (position + 1) * self.batch]))
        torch.default_generator.manual_seed(int(np.random.default_rng([self.seed, number]).integers(1 << 62)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * 0.5 * (1 + math.cos(math.pi * number / total))
        self.network.train()
        # A batch of one row has no variance to normalize by.
        if self.batch == 1:
            self.network.eval()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective.loss(self.network, some)
        if not bool(torch.isfinite(loss)):
            raise errors.CaptureFailed(
                f"training went wrong: the loss is {float(loss.detach())} at step {number + 1} of {total}.",
                hint="Are there rows with values that are not finite, or far outside all others?",
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_((p for p in self.network.parameters() if p.grad is not None), _CLIP)
        self.optimizer.step()
        with torch.no_grad():
            for parameter, mask in self.masks:
                parameter.mul_(mask)
        self.network.eval()
        self.on_step(self.network, (number + 1) / total)

    def measured(self) -> float:
        """The loss on the rows held out."""
        return self.objective.measured(self.network, self.held)

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of all that the network holds."""
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}


class _Loop:
    """Runs a `_Run` to its end, or to where its time is over."""

    def __init__(
        self, run: _Run, plan: Plan, saved: state.Kept, say: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        self.run, self.plan, self.saved, self.say, self.clock = run, plan, saved, say, clock
        self.progress = state.Progress(run=saved.run, total=run.steps)
        self.best: dict[str, torch.Tensor] = {}
        self.since = clock()
        self.before = 0.0
        self.written = self.since
        self.asking = 0.0

    def go(self) -> Fitted:
        """The fitted network."""
        if not self._resumed():
            self.run.on_step(self.run.network, 0.0)
            self._evaluate()
        while not self.progress.ended:
            self.run.step(self.progress.steps, self.progress.total)
            self._now(steps=self.progress.steps + 1)
            due = self._due()
            if due:
                self._evaluate()
            if self.progress.steps == _TIMED_AFTER or (due and self.progress.steps > _TIMED_AFTER):
                self._fit_into_time()
            self._end(due=due)
            if self.progress.ended or self.clock() - self.written >= _KEPT_EVERY_S:
                self._write()
        if not self.best:
            hint = "Give it more time (--time)." if self._elapsed() >= self.plan.seconds else ""
            raise errors.CaptureFailed(f"training brought nothing to use: {self.progress.ended}.", hint=hint)
        self.run.network.load_state_dict(self.best)
        self.say(f"Trained {self.progress.steps} steps: {self.progress.ended}.")
        return Fitted(
            network=self.run.network.eval(),
            history=self.progress.history,
            steps=self.progress.steps,
            seconds=self.progress.seconds,
            stopped=self.progress.ended,
        )

    def _resumed(self) -> bool:
        found = self.saved.read()
        if found is None:
            return False
        self.progress, parts = found
        self.best = parts.get("best", {})
        self.before = self.progress.seconds
        if not self.progress.ended:
            self.run.network.load_state_dict(parts["now"])
            state.restore_optimizer(self.run.optimizer, parts.get("adam", {}))
            self.run.on_step(self.run.network, self._part())
            self.say(f"Going on at step {self.progress.steps} of {self.progress.total}.")
        return True

    def _write(self) -> None:
        self._now(seconds=self._elapsed())
        tensors = {"best": self.best}
        if not self.progress.ended:
            tensors |= {"now": self.run.weights(), "adam": state.optimizer_tensors(self.run.optimizer)}
        self.saved.write(self.progress, tensors)
        self.written = self.clock()

    def _now(self, **changes: Any) -> None:
        self.progress = msgspec.structs.replace(self.progress, **changes)

    def _elapsed(self) -> float:
        return self.before + self.clock() - self.since

    def _part(self) -> float:
        return self.progress.steps / self.progress.total

    def _due(self) -> bool:
        steps, total = self.progress.steps, self.progress.total
        return steps * EVALUATIONS // total > (steps - 1) * EVALUATIONS // total

    def _evaluate(self) -> None:
        began = self.clock()
        loss = self.run.measured()
        self.asking = self.clock() - began
        # JSON has no infinity.
        loss = loss if math.isfinite(loss) else _HOPELESS
        self._now(history=(*self.progress.history, loss))
        self.say(f"step {self.progress.steps} of {self.progress.total}: holdout loss {loss:.4g}")
        settled = self._part() >= self.plan.settled
        if settled and loss < _HOPELESS and (self.progress.best is None or loss < self.progress.best):
            self._now(best=loss)
            self.best = self.run.weights()

    def _fit_into_time(self) -> None:
        """As many steps as the time allows at the pace so far."""
        steps, total = self.progress.steps, self.progress.total
        one = max(0.0, self._elapsed() - self.asking * len(self.progress.history)) / steps
        left = _MARGIN * (self.plan.seconds - self._elapsed())
        left -= self.asking * max(0, EVALUATIONS + 1 - len(self.progress.history))
        if steps < total and one * (total - steps) > left:
            limited = f" of {self.run.steps}, as many as {self.plan.seconds:.3g} s allow,"
            self._now(total=steps + max(1, int(left / one)), limited=limited)

    def _end(self, *, due: bool) -> None:
        """Say why it ends, if it does; `due`: the holdout was just asked."""
        if due and self._given_up():
            self.best = {}
            self._now(best=None)
        elif self.progress.steps >= self.progress.total:
            self._now(ended=f"its {self.progress.total} steps{self.progress.limited} were done")
        elif self._elapsed() >= self.plan.seconds:
            if not due:
                self._evaluate()
            told = f"{self.progress.steps} of {self.progress.total} steps"
            self._now(ended=f"its {self.plan.seconds:.3g} s were used up after {told}")
        self._now(seconds=self._elapsed())

    def _given_up(self) -> bool:
        """Whether the best loss so far stayed above the reference's, when it should have learned."""
        history = self.progress.history
        if len(history) <= _PATIENCE:
            return False
        # What knows nothing yet and is still learning may only be slow.
        if not self.plan.reference and min(history[-_PATIENCE:]) < min(history[:-_PATIENCE]):
            return False
        for back in range(_PATIENCE):
            seen = history[: len(history) - back]
            part = min(1.0, (len(seen) - 1) / EVALUATIONS)
            if part < _LEARNED_BY or min(seen) <= self._reference(part):
                return False
        self._now(
            ended=f"given up at step {self.progress.steps} of {self.progress.total}: the holdout loss, "
            f"{min(history):.3g} at best, stayed above {self._reference(self._part()):.3g}"
        )
        return True

    def _reference(self, part: float) -> float:
        curve = self.plan.reference
        return curve[round(part * (len(curve) - 1))] if curve else self.run.objective.no_skill


@contextlib.contextmanager
def _settings(plan: Plan) -> Iterator[None]:
    """torch's threads and random numbers as the plan says, and afterwards as they were."""
    threads = torch.get_num_threads()
    try:
        if plan.threads:
            torch.set_num_threads(plan.threads)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)


def _identity(run: _Run, plan: Plan) -> str:
    """What tells one run from another: the plan, the network as it is now, and the rows."""
    told = hashlib.sha256(msgspec.json.encode([plan, str(torch.__version__), type(run.network).__qualname__]))
    for name, value in run.network.state_dict().items():
        told.update(f"{name}{list(value.shape)}".encode())
        told.update(value.contiguous().numpy().tobytes())
    for rows in (run.rows, run.held):
        arrays = [*rows.inputs.values(), *rows.teachers, *([] if rows.labels is None else [rows.labels])]
        for array in arrays:
            told.update(f"{array.dtype}{array.shape}".encode())
            told.update(np.ascontiguousarray(array).tobytes())
    return told.hexdigest()
