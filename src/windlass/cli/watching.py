"""What a rollout looks like on a terminal, and following one to its end.

Used by `deploy --wait`, `rollback` and `rollout watch`. The picture is made of rows alone. Must never put a verdict
into words of its own: it shows the evidence's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import rich.console
import rich.live
import rich.text

from windlass import errors
from windlass.cli import output, planes
from windlass.records import deployments, rollouts
from windlass.rollout import evidence, phrases

_EVERY_S = 0.5
# A wish that no controller has taken up by then, with none in sight, is not waited for any longer.
_TAKEN_UP_S = 15.0
_BAR = 20
# The relative risks that the evidence can tell apart end here.
_WIDEST = 64.0
_BAD = ("failed", "expired", "rejected")


class View(msgspec.Struct, frozen=True):
    """What is shown of one deployment: it, its newest rollout, and that one's last step."""

    deployment: deployments.Deployment
    rollout: rollouts.Rollout | None = None
    step: rollouts.Step | None = None

    @property
    def ended(self) -> bool:
        """Whether the controller has taken up the wish and nothing is under way."""
        status = self.deployment.status
        if self.rollout is not None and self.rollout.ended_at is None:
            return False
        return status.generation >= self.deployment.generation and status.phase in ("LIVE", "FAILED", "EMPTY")

    @property
    def reached(self) -> bool:
        """Whether what is wanted is live."""
        live, wanted = self.deployment.status.live, self.deployment.desired.release
        return self.ended and live is not None and (live.digest, live.version) == (wanted.digest, wanted.version)


def view(found: Any, name: str) -> View:
    """What there is to show of a deployment now; `NotFound` if there is none.

    The rollout is read first: once it has ended, what is read of the deployment is what it ended with.
    """
    newest = max(found.rollouts(name), key=lambda rollout: rollout.number, default=None)
    stored = found.get(name)
    if newest is None:
        return View(stored)
    return View(stored, newest, next(reversed(found.steps(newest.id)), None))


def picture(seen: View, *, width: int = 100) -> list[str]:
    """Lines of plain text: the arms with shares and counts, the metrics with their intervals, the verdict in words."""
    stored, status = seen.deployment, seen.deployment.status
    wanted = stored.desired.release
    lines = [f"{stored.name}  {status.phase}  {stored.desired.strategy.kind} to {wanted.name}@{wanted.version}"]
    if seen.rollout is not None and not seen.ended:
        lines[0] += f"  (rollout {seen.rollout.number}, step {seen.rollout.step})"
    counts = {} if seen.step is None else seen.step.counts
    arms = _arms(seen)
    if arms:
        rows = [_arm(arm, share, counts.get(arm, {})) for arm, share in arms.items()]
        lines += ["", _fitting(("VERSION", "SHARE", "", "REQUESTS", "BAD", "SLOW"), rows, width, spare=(2,))]
    judged = _judged(seen.step)
    if judged is not None and judged.findings:
        header = ("METRIC", "THERE", "NOW", "INTERVAL", "OF", "SAYS")
        lines += ["", _fitting(header, [*map(_finding, judged.findings)], width, spare=(4, 1, 2))]
    told = status.words
    if judged is not None and judged.words and judged.words.lower() not in told.lower():
        lines += ["", *_wrapped(judged.words, width)]
    if told:
        verdict = "" if judged is None or seen.ended else f"{judged.verdict}: "
        lines += ["", *_wrapped(verdict + told, width)]
    if status.generation < stored.generation:
        lines += ["", f"generation {stored.generation} is not taken up yet"]
    return lines


def follow(context: output.Context, found: Any, name: str, *, until_s: float) -> View:
    """Show a rollout until it ends where it was wanted to; `GateRefused` with the reason if it ended elsewhere."""
    seen = settle(context, found, name, until_s=until_s)
    if not seen.reached:
        raise refused(seen)
    return seen


def settle(
    context: output.Context,
    found: Any,
    name: str,
    *,
    until_s: float,
    every_s: float = _EVERY_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> View:
    """Show a rollout until it ends, wherever.

    `Conflict` if somebody wants another release meanwhile, `Unavailable` if nobody carries it out.
    """
    began = clock()
    seen = view(found, name)
    wanted = seen.deployment.desired.release
    with screen(context) as show:
        while True:
            show(seen)
            if seen.ended:
                return seen
            waited = clock() - began
            idle = seen.deployment.status.generation < seen.deployment.generation
            if idle and waited > _TAKEN_UP_S and not planes.controlled(context):
                raise errors.Unavailable(
                    f"no controller has taken up '{name}'.",
                    hint="Start one: windlass up. The wish is on record, and it will carry it out.",
                )
            if waited > until_s:
                raise errors.DeadlineExceeded(
                    f"the rollout of '{name}' is still under way.", hint=f"Watch it: windlass rollout watch {name}"
                )
            sleep(every_s)
            seen = view(found, name)
            if seen.deployment.desired.release != wanted:
                raise _overtaken(seen.deployment)


def _overtaken(stored: deployments.Deployment) -> errors.Conflict:
    release = stored.desired.release
    return errors.Conflict(
        f"{stored.actor} wants {release.name}@{release.version} of '{stored.name}' now"
        f"{f' ({stored.reason})' if stored.reason else ''}.",
        hint=f"See: windlass rollout status {stored.name}",
    )


def refused(seen: View) -> errors.GateRefused:
    """Why a rollout ended elsewhere, in the evidence's words, and what serves now."""
    status, wanted = seen.deployment.status, seen.deployment.desired.release
    live = "nothing" if status.live is None else f"{status.live.name}@{status.live.version}"
    verdict = "" if seen.rollout is None or not seen.rollout.verdict else f" ({seen.rollout.verdict})"
    words = (seen.rollout.words if seen.rollout is not None else "") or status.words or "no reason is on record"
    return errors.GateRefused(
        f"{wanted.name}@{wanted.version} did not become live{verdict}: {words.rstrip('.')}. {live} answers for"
        f" '{seen.deployment.name}'.",
        hint=f"See every step: windlass rollout history {seen.deployment.name}",
    )


@contextlib.contextmanager
def screen(context: output.Context) -> Iterator[Callable[[View], None]]:
    """On a terminal a picture that is renewed in place; else a line whenever the words change."""
    if not context.lively:
        yield _teller(context)
        return
    console = rich.console.Console(stderr=True, highlight=False)
    with rich.live.Live(console=console, auto_refresh=False, transient=False) as live:

        def show(seen: View) -> None:
            text = rich.text.Text("\n".join(picture(seen, width=min(console.width, 120))), no_wrap=True)
            live.update(_coloured(text), refresh=True)

        yield show


def _teller(context: output.Context) -> Callable[[View], None]:
    said = ""

    def tell(seen: View) -> None:
        nonlocal said
        status = seen.deployment.status
        shares = ", ".join(f"{arm}: {share:g} %" for arm, share in _arms(seen).items())
        line = f"{seen.deployment.name}  {status.phase}" + (f"  {shares}" if shares else "")
        line += f"  {status.words}" if status.words else ""
        if line != said:
            said = line
            context.say(line)

    return tell


_COLOURS = {
    "LIVE": "green",
    "PROMOTE": "green",
    "FAILED": "red",
    "ABORT": "red",
    "RETURNING": "red",
    "PAUSED": "yellow",
}


def _coloured(text: rich.text.Text) -> rich.text.Text:
    for word, style in _COLOURS.items():
        text.highlight_words([word], f"bold {style}")
    return text


def _arms(seen: View) -> dict[str, float]:
    """Shares in percent by arm, the releases by age."""
    shares = dict(seen.deployment.status.shares)
    if seen.step is not None and seen.step.wanted is not None and not seen.ended:
        shares = {arm.release.arm: arm.share for arm in seen.step.wanted.arms} | shares
    return dict(sorted(shares.items(), key=lambda item: (len(item[0]), item[0])))


def _fitting(header: tuple[str, ...], rows: list[tuple[str, ...]], width: int, *, spare: tuple[int, ...]) -> str:
    """A table without as many of the columns that can be spared, in their order, as it takes to fit."""
    for gone in range(len(spare) + 1):
        kept = [column for column in range(len(header)) if column not in spare[:gone]]
        text = output.table([header[c] for c in kept], [[row[c] for c in kept] for row in rows])
        if max(map(len, text.splitlines())) <= width:
            break
    return text


def _arm(arm: str, share: float, counts: dict[str, Any]) -> tuple[str, ...]:
    full = round(share / 100 * _BAR)
    bar = "#" * full + "." * (_BAR - full)
    asked, bad = int(counts.get("admitted", 0)), sum(int(counts.get(kind, 0)) for kind in _BAD)
    return (f"@{arm}", f"{share:g} %", bar, f"{asked:,}", _part(bad, asked), _part(int(counts.get("slow", 0)), asked))


def _part(some: int, of: int) -> str:
    return f"{some:,} ({some / of:.2%})" if of else "-"


def _judged(step: rollouts.Step | None) -> evidence.Judgement | None:
    if step is None or not step.evidence:
        return None
    try:
        return msgspec.convert(step.evidence, evidence.Judgement)
    except msgspec.ValidationError:
        return None


def _finding(found: evidence.Finding) -> tuple[str, ...]:
    interval, of = f"{found.lower:.3g} to {found.upper:.3g}" if found.lower or found.upper else "-", found.unit
    if found.unit == "relative risk" and found.lower <= 1 / _WIDEST and found.upper >= _WIDEST:
        interval = "not known yet"
        if found.difference < 1.0:
            interval, of = f"up to +{phrases.up(100.0 * found.difference)} points", "difference of rates"
    return (found.metric, f"{found.baseline:.4g}", f"{found.candidate:.4g}", interval, of, found.verdict)


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return lines
