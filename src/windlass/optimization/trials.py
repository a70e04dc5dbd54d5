"""Forms made and measured, each only once: what was found before an interruption is not found again.

Called by `search` for everything that takes time; what makes and measures is given as plain functions by `study`.
Must never decide what is tried, nor forget what something cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from windlass import errors
from windlass.optimization import findings, journal
from windlass.optimization import form as forms
from windlass.optimization.techniques import base

# Forms that take longer than this to make are kept on disk while a study goes on; the others are made again.
KEPT_ABOVE_S = 10.0
_IN_MEMORY = 3
_THOROUGH = True
T = TypeVar("T")


class Failed(Exception):
    """A form cannot be made or measured; the text says why. Other candidates are not touched by it."""


class Instruments(msgspec.Struct, frozen=True):
    """What trials are made with. Rows of a run, and whether a timing is `thorough`, are told to `time`.

    `apply` has so many seconds if it trains. `footprint` is told whether to measure the peak of memory. `confirm`
    judges on the rows that no choice has seen, at a level. `rescue` finds which nodes a technique should leave out:
    it stops where its last argument says no. `layers` only finds how sensitive each is.
    """

    techniques: Mapping[str, type[base.Technique]]
    refusal: Callable[[str, forms.Form], str]
    apply: Callable[[forms.Form, forms.Step, float], forms.Form]
    time: Callable[[forms.Form, int, bool], findings.Timing]
    footprint: Callable[[forms.Form, bool], findings.Footprint]
    likeness: Callable[[forms.Form], findings.Likeness]
    judge: Callable[[forms.Form], findings.Judged]
    confirm: Callable[[forms.Form, float], findings.Judged]
    rescue: Callable[[forms.Form, forms.Step, Callable[[], bool]], Rescue]
    layers: Callable[[forms.Form, forms.Step, Callable[[], bool]], tuple[findings.Layer, ...]]


class Rescue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The nodes to leave out, so that a quantized form keeps the accuracy or comes nearest to it (empty: none could be
    tried), and each layer's sensitivity."""

    excluded: tuple[str, ...]
    layers: tuple[findings.Layer, ...]


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A form without its bytes."""

    digest: str
    steps: tuple[forms.Step, ...]
    size: int
    precision: str
    left: tuple[forms.Left, ...] = ()
    notes: tuple[str, ...] = ()
    trained: bool = False
    seconds: float = 0.0


class Trials:
    """The forms of one study, by the steps that make them. `spent` are all its seconds, those before an interruption
    among them."""

    def __init__(
        self,
        original: forms.Form,
        instruments: Instruments,
        kept: journal.Journal,
        *,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.instruments = instruments
        self.seconds = seconds
        self.spent = 0.0
        self.original = Made(original.digest, (), original.size, original.precision)
        self._journal = kept
        self._clock = clock
        self._forms = {original.digest: original}
        self._original = original
        self._made: dict[bytes, Made] = {_key(()): self.original}
        self._counted: set[bytes] = set()
        self._without_network: set[str] = set()

    @property
    def left(self) -> float:
        """Seconds that remain; below 0 when the time is over."""
        return self.seconds - self.spent

    def form(self, made: Made) -> forms.Form:
        """The form itself: from memory, from the journal, or made again. `Failed` if it does not come out the same."""
        if made.digest == self._original.digest:
            return self._original
        found = self._forms.get(made.digest) or self._journal.form(made.digest) or self._again(made)
        if found.digest != made.digest:
            raise Failed("it does not come out the same when it is made again")
        return self._remember(found)

    def root(self, made: Made) -> forms.Form:
        """The form to put a step on: with its network, where training made it."""
        found = self.form(made)
        if not made.trained or found.network is not None or made.digest in self._without_network:
            return found
        found = self._again(made)
        if found.network is None:
            self._without_network.add(made.digest)
        return self._remember(found)

    def made(self, root: Made, step: forms.Step, seconds: float = 0.0) -> Made:
        """The form of one more step, trained for at most so many seconds. `Failed` says why there is none."""
        steps = (*root.steps, step)
        trains = self.instruments.techniques[step.technique].trains

        def make() -> Made:
            form = self.instruments.apply(self.root(root), step, seconds)
            self._remember(form)
            return Made(
                form.digest,
                steps,
                form.size,
                form.precision,
                form.left,
                form.notes,
                trains or root.trained,
                seconds,
            )

        before = self.spent
        found = self.ask(["made", msgspec.to_builtins(steps)], Made, make)
        if self.spent - before > KEPT_ABOVE_S and self._journal.get(["forms", found.digest]) is None:
            self._journal.keep(self.form(found))
        self._made[_key(steps)] = found
        return found

    def timing(self, made: Made, rows: int, *, thorough: bool) -> findings.Timing:
        """Against the original, in turn."""
        key = ["time", made.digest, rows, thorough]
        return self.ask(key, findings.Timing, lambda: self.instruments.time(self.form(made), rows, thorough))

    def timed_again(self, made: Made, rows: int) -> findings.Timing:
        """The same once more: what chose a form is not what confirms it."""
        key = ["time again", made.digest, rows]
        return self.ask(key, findings.Timing, lambda: self.instruments.time(self.form(made), rows, _THOROUGH))

    def footprint(self, made: Made, *, peak: bool) -> findings.Footprint:
        """Its bytes, and its memory where asked for."""
        key = ["footprint", made.digest, peak]
        return self.ask(key, findings.Footprint, lambda: self.instruments.footprint(self.form(made), peak))

    def likeness(self, made: Made) -> findings.Likeness:
        """A quick look at its answers."""
        key = ["likeness", made.digest]
        return self.ask(key, findings.Likeness, lambda: self.instruments.likeness(self.form(made)))

    def judged(self, made: Made) -> findings.Judged:
        """On the rows that candidates are compared on."""
        return self.ask(["judged", made.digest], findings.Judged, lambda: self.instruments.judge(self.form(made)))

    def confirmed(self, made: Made, level: float) -> findings.Judged:
        """On the rows that no choice has seen."""
        key = ["confirmed", made.digest, level]
        return self.ask(key, findings.Judged, lambda: self.instruments.confirm(self.form(made), level))

    def rescued(self, root: Made, step: forms.Step, seconds: float, allowed: str) -> Rescue:
        """Which nodes the step should leave out; searched for at most so many seconds.

        `allowed` is the drop that the budget allows, as text: under another budget other nodes are left out.
        """
        go_on = self._until(seconds)
        key = ["rescued", root.digest, msgspec.to_builtins(step), allowed]
        return self.ask(key, Rescue, lambda: self.instruments.rescue(self.root(root), step, go_on))

    def layers(self, root: Made, step: forms.Step, seconds: float) -> tuple[findings.Layer, ...]:
        """How sensitive each layer is to the step."""
        go_on = self._until(seconds)
        key = ["layers", root.digest, msgspec.to_builtins(step)]
        return self.ask(key, tuple[findings.Layer, ...], lambda: self.instruments.layers(self.root(root), step, go_on))

    def count(self, key: list[Any], seconds: float) -> None:
        """Seconds that were spent on something else; those of the first time count."""
        known = self._journal.get(key)
        if known is None:
            known = journal.Entry(None, seconds)
            self._journal.put(key, None, seconds)
        self.spent += known.seconds

    def ask(self, key: list[Any], kind: type[T], work: Callable[[], T]) -> T:
        """What is known under a key, else what the work gives; its seconds count either way. `Failed` is kept too."""
        known = self._journal.get(key)
        found = None if known is None else _read(known, kind)
        if known is None or (found is None and _failure(known) is None):
            known = self._measured(key, work)
            found = _read(known, kind)
        name = msgspec.json.encode(key)
        if name not in self._counted:
            self._counted.add(name)
            self.spent += known.seconds
        if found is None:
            raise Failed(_failure(known) or "what was found cannot be kept")
        return found

    def _measured(self, key: list[Any], work: Callable[[], Any]) -> journal.Entry:
        """What the work gives, or why it failed; kept at once."""
        started = self._clock()
        try:
            value: Any = {"found": msgspec.to_builtins(work())}
        except Failed as e:
            value = {"failed": str(e)}
        except errors.WindlassError as e:
            value = {"failed": e.message.rstrip(".")}
        except Exception as e:  # noqa: BLE001 - a library may raise anything; the other candidates go on
            if _interrupted(e):
                raise KeyboardInterrupt from None
            value = {"failed": f"{type(e).__name__}: {str(e)[:300]}"}
        return self._kept(key, value, max(0.0, self._clock() - started))

    def _kept(self, key: list[Any], value: Any, seconds: float) -> journal.Entry:
        try:
            self._journal.put(key, value, seconds)
        except errors.InvalidInput:
            value = {"failed": "it answers with what are no numbers"}
            self._journal.put(key, value, seconds)
        return journal.Entry(value, seconds)

    def _until(self, seconds: float) -> Callable[[], bool]:
        end = self._clock() + seconds
        return lambda: self._clock() < end

    def _again(self, made: Made) -> forms.Form:
        root = self._made.get(_key(made.steps[:-1]))
        if root is None:
            raise Failed("what it was made from is not known any more")
        return self.instruments.apply(self.root(root), made.steps[-1], made.seconds)

    def _remember(self, form: forms.Form) -> forms.Form:
        self._forms.pop(form.digest, None)
        self._forms[form.digest] = form
        while len(self._forms) > _IN_MEMORY:
            del self._forms[next(iter(self._forms))]
        return form


def _read(known: journal.Entry, kind: type[T]) -> T | None:
    """What was found; None for a failure, and for what another version of Windlass wrote otherwise."""
    try:
        return msgspec.convert(known.value["found"], kind)
    except (msgspec.ValidationError, KeyError, TypeError):
        return None


def _failure(known: journal.Entry) -> str | None:
    failed = known.value.get("failed") if isinstance(known.value, dict) else None
    return failed if isinstance(failed, str) else None


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it: one that comes inside a library may come out as that library's own error."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _key(steps: tuple[forms.Step, ...]) -> bytes:
    return msgspec.json.encode(steps, order="sorted")
