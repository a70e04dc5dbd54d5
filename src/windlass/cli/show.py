"""`windlass show`: the studies of a version, as text or as a page.

Must never run a study, nor judge one anew.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from windlass import errors
from windlass.cli import models, output, planes
from windlass.optimization import findings, record
from windlass.optimization.report import page, words
from windlass.registry import registry as registries
from windlass.types import refs

_WIDE, _HIGH = 64, 12


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the newest study as one page.")
@click.pass_obj
def show(context: output.Context, reference: str, html: Path | None) -> None:
    """Show what was found when the version REF was optimized: made into it, or left as it is."""
    if html is not None and html.exists():
        raise errors.Conflict(f"'{html}' exists already.", hint="Remove it, or choose another name.")
    ref = refs.parse(reference)
    if ref.kind == "path":
        raise errors.UsageError("studies are kept in the registry, not in a package.", hint="Write NAME@VERSION.")
    with planes.registry(context) as registry:
        shown = registry.show(ref)
    found = [(f, report) for f in shown.evidence for report in record.reports([f.evidence])]
    if not found:
        raise _none(shown)
    if html is not None:
        try:
            html.write_text(page.page(found[-1][1]), encoding="utf-8")
        except OSError as e:
            raise errors.Unavailable(f"'{html}' cannot be written: {e.strerror}.", hint="Check the path.") from None
        context.say(f"wrote {html}")
    named = f"{shown.version.name}@{shown.version.version}"
    told = [f"{named}: study of {models.when(f.at)} by {f.actor}\n\n{text(report)}" for f, report in found]
    result = [{"at": f.at, "actor": f.actor, "report": record.plain(report)} for f, report in found]
    context.result(result, lambda: "\n\n\n".join(told))


def _none(shown: registries.Shown) -> errors.NotFound:
    version = shown.version
    named = f"{version.name}@{version.version}"
    made = [f"{child.name}@{child.version}" for child in shown.family.children if child.name]
    hint = (
        f"It was made into {', '.join(made)}: windlass show {made[-1]}" if made else f"See: windlass optimize {named}"
    )
    return errors.NotFound(f"{named} was never optimized.", hint=hint)


def text(found: findings.Report) -> str:
    """A study in the terminal: the verdict, every candidate, and speed against answers."""
    parts = [found.sentence]
    every = [found.baseline, *words.ordered(found)]
    parts.append(output.table(_header(found), [_row(number, one, found) for number, one in enumerate(every)]))
    parts.append("\n".join(f"{number:>2}  {one.why}" for number, one in enumerate(every) if number and one.why))
    drawn = _picture(found)
    if drawn:
        parts.append(drawn)
    failed = [f"  {cell.form} in {cell.runtime}: {cell.words}" for cell in found.parity if cell.verdict == "failed"]
    if failed:
        parts.append("\n".join(["Other runtimes answer differently:", *failed]))
    if found.notes:
        parts.append("\n".join(f"note: {note}" for note in found.notes))
    return "\n\n".join(part for part in parts if part)


def _header(found: findings.Report) -> list[str]:
    return [
        "#",
        "FORM",
        "VERDICT",
        *(f"SPEED-UP, {words.rows(n).upper()}" for n in _batches(found)),
        "SIZE",
        "DROP",
    ]


def _batches(found: findings.Report) -> list[int]:
    return list(dict.fromkeys(t.rows for one in (found.baseline, *found.candidates) for t in one.timings))


def _row(number: int, one: findings.Candidate, found: findings.Report) -> list[Any]:
    judged = one.confirmed or one.judged
    timings = {timing.rows: timing for timing in one.timings}
    original = number == 0
    paces = []
    for rows in _batches(found):
        timing = timings.get(rows)
        if timing is None:
            paces.append("-")
        else:
            paces.append(words.milliseconds(timing.baseline_ms) if original else words.speed(timing))
    return [
        number,
        "the original" if original else one.name,
        "" if original else one.verdict,
        *paces,
        words.smaller(one, found.baseline) or "-",
        "-" if judged is None or original else words.drop(judged.drop),
    ]


def _picture(found: findings.Report) -> str:
    """Each candidate by its number: faster to the right, better answers up. Those beyond the plot are at its edge."""
    points = [
        (number, one.timings[0].speedup, -judged.drop.drop)
        for number, one in enumerate(words.ordered(found), 1)
        if one.timings and (judged := one.confirmed or one.judged) is not None
    ]
    if not points:
        return ""
    most = words.most_drop(found)
    low_x, high_x = _around([1.0, *(x for _, x, _ in points)])
    floor = -math.inf if not most else -6 * most
    low_y, high_y = _around([0.0, *([-most] if most else []), *(y for _, _, y in points if y >= floor)])
    grid = [[" "] * _WIDE for _ in range(_HIGH)]

    def put(x: float, y: float, mark: str) -> None:
        across = round((x - low_x) / (high_x - low_x) * (_WIDE - 1))
        row = _HIGH - 1 - min(max(round((y - low_y) / (high_y - low_y) * (_HIGH - 1)), 0), _HIGH - 1)
        cells = slice(left := min(max(across, 0), _WIDE - len(mark)), left + len(mark))
        # Beside what stands there already, if there is room.
        near = [row + off for off in (0, 1, -1, 2, -2) if 0 <= row + off < _HIGH]
        free = [each for each in near if set(grid[each][cells]) <= set(" -")]
        grid[next(iter(free), row)][cells] = mark

    for at in range(_WIDE) if most else ():
        put(low_x + (high_x - low_x) * at / (_WIDE - 1), -(most or 0.0), "-")
    put(1.0, 0.0, "o")
    for number, x, y in reversed(points):
        put(x, y, str(number))
    lines = [f"|{''.join(row).rstrip()}" for row in grid]
    name = next(judged.drop.name for one in found.candidates if (judged := one.confirmed or one.judged) is not None)
    ends = f"{low_x:.2f}x".ljust(_WIDE - 6) + f"{high_x:.2f}x"
    said = f"{name}: {high_y:+.3g} at the top, {low_y:+.3g} at the bottom; o: the original"
    said += f"; ---: the budget, {most:.3g} lost" if most else ""
    return "\n".join([*lines, f"+{'-' * _WIDE}", f" {ends}", said])


def _around(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or 0.05
    return low - room, high + room
