"""What a study finds, as values: what is measured, judged, chosen and reported.

Filled by the files of this room, kept as evidence and in the journal, drawn by `report`. Holds JSON values only, so
that each can be stored and read back. Must never compute anything but what follows from its own fields.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from windlass.optimization import form


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A form against the original, run in turn (A B A B) on one thread count.

    `speedup` is the median of the rounds' ratios (above 1: faster), `low` and `high` its bootstrap 95 % interval.
    `baseline_ms` is the original's median milliseconds of one run, `candidate_ms` that over the speed-up.
    """

    rows: int
    threads: int
    baseline_ms: float
    candidate_ms: float
    speedup: float
    low: float
    high: float
    repeats: int

    @property
    def verdict(self) -> Literal["faster", "slower", "no significant change"]:
        """What the interval says."""
        return "faster" if self.low > 1.0 else "slower" if self.high < 1.0 else "no significant change"


class Footprint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes: of the files, and of the files deflated (what travels).

    `peak` is the resident memory that loading and running added to an idle process (0: not measured).
    """

    files: int
    deflated: int
    peak: int = 0


class Likeness(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers against the original's, without labels.

    `agreement`: the share of rows with the same highest class (None: the answers are no classes); `sqnr_db`: signal to
    quantization noise in decibels; `cosine`: mean cosine similarity of a row; `worst`: the largest error over the
    largest magnitude.
    """

    rows: int
    agreement: float | None
    sqnr_db: float
    cosine: float
    worst: float


class Drop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much worse a form answers the same rows than the original, in the metric's unit; negative is better.

    `low` and `high` are each a one-sided bound of the paired difference, at `level`.
    """

    name: str
    rows: int
    baseline: float
    candidate: float
    drop: float
    low: float
    high: float
    level: float = 0.95


class Judged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that was found of a form's answers.

    Without labels `drop` is of the agreement with the original, whose own is 1. `slices` are the drops of groups of
    rows, worst first; `attacked` is the drop on adversarial rows, where asked for. `synthetic`: nobody sent the rows.
    """

    labelled: bool
    drop: Drop
    likeness: Likeness
    slices: tuple[Drop, ...] = ()
    attacked: Drop | None = None
    synthetic: bool = False


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One form that was tried.

    `why` is one sentence: why it was chosen, kept in the Pareto set, or rejected. What was not measured any more,
    because an earlier check said no, is empty.
    """

    digest: str
    name: str
    steps: tuple[form.Step, ...]
    verdict: Literal["chosen", "kept", "rejected", "failed"]
    why: str
    timings: tuple[Timing, ...] = ()
    footprint: Footprint | None = None
    judged: Judged | None = None
    confirmed: Judged | None = None
    left: tuple[form.Left, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


class Operator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of operator: how often it runs, its microseconds in one run of the model, its share of them all."""

    kind: str
    calls: int
    us: float
    share: float


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One operator of the graph and its microseconds in one run."""

    name: str
    kind: str
    us: float


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The most that a technique can gain (Amdahl, 1967): if the share it can touch ran `gain` times as fast."""

    technique: str
    share: float
    gain: float
    speedup: float


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the time of one run goes. `us` is the whole run, unprofiled; `outside_us` what no operator accounts for.

    `dispatch_bound`: calling operators costs more than computing. `worth` is False where nothing can gain enough, and
    `words` says so in a sentence.
    """

    runtime: str
    rows: int
    threads: int
    us: float
    outside_us: float
    operators: tuple[Operator, ...]
    slowest: tuple[Node, ...]
    bounds: tuple[Bound, ...]
    dispatch_bound: bool
    worth: bool
    words: str


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One layer's sensitivity: decibels of signal to noise when it alone is quantized, and its microseconds.

    `excluded`: it was left as it is in the chosen form.
    """

    node: str
    operator: str
    sqnr_db: float
    us: float
    excluded: bool = False


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One cell of the parity matrix: a form in a runtime, against the same form as it is served.

    `skipped` is what could not be tried here, with the reason in `words`: it is never `passed`.
    """

    form: Literal["original", "chosen"]
    runtime: str
    verdict: Literal["passed", "failed", "skipped"]
    worst: float | None
    words: str


class Setting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number of threads and of rows in one run, with the chosen form: milliseconds of a run, rows a second."""

    threads: int
    rows: int
    ms: float
    rows_per_s: float


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole study. `sentence` is the verdict in one sentence; `recipe` the TOML that `--replay` takes.

    `verdict`: `optimized` (a form within the budget and not slower was chosen), `kept` (leave it as it is) or `missed`
    (the budget that was set is met by none: `nearest` names the candidate that comes nearest, and by how much).
    """

    parent: str
    reference: str
    verdict: Literal["optimized", "kept", "missed"]
    sentence: str
    chosen: str
    nearest: str
    asked: dict[str, Any]
    baseline: Candidate
    candidates: tuple[Candidate, ...]
    pareto: tuple[str, ...]
    profile: Profile | None
    layers: tuple[Layer, ...]
    parity: tuple[Parity, ...]
    settings: tuple[Setting, ...]
    cost: dict[str, float]
    recipe: str
    machine: dict[str, Any]
    data: dict[str, Any]
    seconds: float
    notes: tuple[str, ...] = ()
