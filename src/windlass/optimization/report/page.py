"""The page of a study: one HTML file that holds everything and asks nobody for anything.

Called by the commands that write reports. Must never put a name into the page without escaping it, nor leave out what
speaks against a form.
"""

from __future__ import annotations

from windlass.client import pages
from windlass.optimization import findings
from windlass.optimization.report import pictures, words

_STYLE = """
body { max-width: 120rem; } h1 { max-width: 60rem; } svg { max-width: min(100%, 60rem); }
.kind { color: var(--soft); font-weight: 600; letter-spacing: .02em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.tiles div { border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
dt { color: var(--soft); font-size: .88rem; } dd { margin: .1rem 0 0; font-size: 1.25rem; font-weight: 600; }
dd small { display: block; font-size: .85rem; font-weight: 400; color: var(--soft); }
.passed { color: var(--good); } .failed { color: var(--bad); } .skipped { color: var(--soft); }
pre { background: var(--faint); padding: .8rem 1rem; border-radius: .5rem; overflow-x: auto; font-size: .86rem; }
summary { cursor: pointer; color: var(--soft); }
"""
_VERDICTS = {
    "optimized": "a better form was found",
    "kept": "left as it is",
    "missed": "the budget is met by none",
}
_MOST_LEFT = 40
_FORM = ("#", "form", "verdict", "why")
_FIGURES = ("size of the files", "memory", "drop (bounds)", "likeness")


def page(found: findings.Report) -> str:
    """The whole page, as text to be written in UTF-8."""
    sections = [
        _head(found),
        _plot(found),
        _candidates(found),
        _chosen(found),
        _profile(found.profile),
        _layers(found),
        _parity(found),
        _settings(found),
        _cost(found),
        _section("Data", pages.table(("", ""), words.facts(found.data), text=(1,)) if found.data else ""),
        _section("Machine", pages.table(("", ""), words.facts(found.machine), text=(1,)) if found.machine else ""),
        _section("What was asked", pages.table(("", ""), words.facts(found.asked), text=(1,)) if found.asked else ""),
        _recipe(found),
        _limits(found),
    ]
    return pages.document(f"{found.reference}: {found.sentence}", "\n".join(each for each in sections if each), _STYLE)


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _list(lines: tuple[str, ...] | list[str]) -> str:
    return "<ul>" + "".join(f"<li>{pages.escaped(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _head(found: findings.Report) -> str:
    """The verdict in one sentence, and the figures that it rests on."""
    kind = f"{found.reference}: {_VERDICTS[found.verdict]}"
    tiles = _tiles(found)
    shown = "".join(
        f"<div><dt>{pages.escaped(name)}</dt><dd>{pages.escaped(value)}<small>{pages.escaped(more)}</small></dd></div>"
        for name, value, more in tiles
    )
    nearest = f"<p>{pages.escaped(f'Nearest is {found.nearest}.')}</p>" if found.nearest else ""
    told = f'<dl class="tiles">{shown}</dl>' if tiles else ""
    return (
        f'<header><p class="kind">{pages.escaped(kind)}</p><h1>{pages.escaped(found.sentence)}</h1></header>'
        f"{nearest}{told}"
    )


def _tiles(found: findings.Report) -> list[tuple[str, str, str]]:
    one = words.chosen(found)
    if one is None:
        return []
    tiles = []
    for timing in one.timings:
        pace = f"{words.milliseconds(timing.baseline_ms)} to {words.milliseconds(timing.candidate_ms)}"
        more = f"95 %: {timing.low:.2f} to {timing.high:.2f}; {pace}, {words.counted(timing.threads, 'thread')}"
        tiles.append((f"speed-up, {words.rows(timing.rows)}", f"{timing.speedup:.2f}x", more))
    judged = one.confirmed or one.judged
    if judged is not None:
        drop = judged.drop
        unseen = "that no choice has seen" if one.confirmed is not None else "it was chosen on"
        more = f"bounds {words.bounds(drop)}; {words.rows(drop.rows)} {unseen}"
        tiles.append((f"drop of {drop.name}", f"{drop.drop:.3g}", more))
        tiles.append((drop.name, f"{drop.candidate:.4g}", f"the original: {drop.baseline:.4g}"))
    if one.footprint is not None:
        before = found.baseline.footprint
        more = f"{words.change(one, found.baseline)}; the original: {words.size(before.files)}" if before else ""
        tiles.append(("size of the files", words.size(one.footprint.files), more))
        if one.footprint.peak:
            more = f"the original: {words.size(before.peak)}" if before and before.peak else ""
            tiles.append(("memory while it runs", words.size(one.footprint.peak), more))
    return tiles


def _plot(found: findings.Report) -> str:
    said = "The bars are 95 % intervals of the speed-up and one-sided bounds of the drop. The area of a bubble is the "
    return _section("Candidates", f"{pictures.pareto(found)}<p>{said}size of the files; numbers are those below.</p>")


def _candidates(found: findings.Report) -> str:
    """Every form that was tried, also those that were rejected."""
    if not found.candidates:
        return "<p>No form was tried.</p>"
    every = words.ordered(found)
    batches = list(dict.fromkeys(timing.rows for one in (found.baseline, *every) for timing in one.timings))
    header = [*_FORM, *(f"speed-up, {words.rows(rows)}" for rows in batches)]
    lines = [_row(number, one, found, batches) for number, one in enumerate((found.baseline, *every))]
    return pages.table((*header, *_FIGURES), lines, text=(1, 3, len(header) + len(_FIGURES) - 1))


def _row(number: int, one: findings.Candidate, found: findings.Report, batches: list[int]) -> tuple[str, ...]:
    judged = one.confirmed or one.judged
    original = one is found.baseline
    timings = {timing.rows: timing for timing in one.timings}
    paces = [_pace(timings[rows], original) if rows in timings else "" for rows in batches]
    return (
        str(number),
        "the original" if original else one.name,
        "" if original else one.verdict,
        one.why,
        *paces,
        words.smaller(one, found.baseline),
        words.memory(one),
        "" if original or judged is None else words.drop(judged.drop),
        "" if original or judged is None else words.likeness(judged.likeness),
    )


def _pace(timing: findings.Timing, original: bool) -> str:
    if original:
        return words.milliseconds(timing.baseline_ms)
    return f"{words.speed(timing)}, {words.milliseconds(timing.candidate_ms)}"


def _chosen(found: findings.Report) -> str:
    """What is to be known of the chosen form beyond its line: groups of rows, attacks, what stayed as it was."""
    one = words.chosen(found)
    if one is None:
        return ""
    parts = []
    for name, judged in (("on the rows it was chosen by", one.judged), ("confirmed on unseen rows", one.confirmed)):
        if judged is None:
            continue
        lines = [("all rows", judged.drop), *((each.name, each) for each in judged.slices)]
        if judged.attacked is not None:
            lines.append((f"adversarial rows ({judged.attacked.name})", judged.attacked))
        shown = [
            (label, str(each.rows), f"{each.baseline:.4g}", f"{each.candidate:.4g}", words.drop(each))
            for label, each in lines
        ]
        parts.append(f"<h3>{pages.escaped(f'{judged.drop.name}, {name}')}</h3>")
        parts.append(pages.table(("rows of", "rows", "original", "chosen", "drop (bounds)"), shown))
    if one.left:
        stayed = [(each.node, each.operator, each.why) for each in one.left[:_MOST_LEFT]]
        more = f", the first {_MOST_LEFT}" if len(one.left) > _MOST_LEFT else ""
        parts.append(f"<details><summary>{words.counted(len(one.left), 'operator')} left as before{more}</summary>")
        parts.append(pages.table(("node", "operator", "why"), stayed, text=(2,)) + "</details>")
    return _section("The chosen form", "".join(parts) + _list(one.notes))


def profiled(reference: str, told: findings.Profile, live: findings.Profile | None = None) -> str:
    """A page of a profile alone; `live` is that of the network as PyTorch runs it."""
    body = f"<h1>{pages.escaped(reference)}</h1>{_profile(told)}"
    if live is not None:
        body += f"<h1>In PyTorch</h1>{_profile(live)}"
    return pages.document(f"{reference}: {told.words}", body, _STYLE)


def _profile(told: findings.Profile | None) -> str:
    if told is None:
        return ""
    bounds = [
        (one.technique, f"{100 * one.share:.1f} %", f"{one.gain:.3g}x", f"{one.speedup:.2f}x") for one in told.bounds
    ]
    slowest = [(one.name, one.kind, f"{one.us:.4g}") for one in told.slowest]
    body = [f"<p>{pages.escaped(told.words)}</p>", pictures.operators(told)]
    if bounds:
        body.append("<p>The most that each technique can gain (Amdahl):</p>")
        body.append(pages.table(("technique", "share it can touch", "gain there", "at most"), bounds))
    if slowest:
        body.append("<details><summary>The slowest operators</summary>")
        body.append(pages.table(("node", "operator", "µs"), slowest) + "</details>")
    return _section("Where the time goes", "".join(body))


def _layers(found: findings.Report) -> str:
    return _section("How sensitive each layer is", pictures.sensitivity(found.layers) if found.layers else "")


def _parity(found: findings.Report) -> str:
    """Forms by runtimes; what could not be tried is skipped, with the reason."""
    if not found.parity:
        return ""
    roles = list(dict.fromkeys(cell.form for cell in found.parity))
    cells = {(cell.runtime, cell.form): cell for cell in found.parity}
    head = "".join(f"<th>{role}</th>" for role in ("runtime", *roles))
    lines = []
    for runtime in dict.fromkeys(cell.runtime for cell in found.parity):
        row = f"<td>{pages.escaped(runtime)}</td>"
        for role in roles:
            cell = cells.get((runtime, role))
            worst = "" if cell is None or cell.worst is None else f" {cell.worst:.1e}"
            row += f'<td class="{cell.verdict}">{cell.verdict}{worst}</td>' if cell else "<td></td>"
        lines.append(f"<tr>{row}</tr>")
    told = [f"{cell.form} in {cell.runtime}: {cell.verdict}; {cell.words}" for cell in found.parity]
    said = "<p>Answers of each form in each runtime, against the same form as it is served.</p>"
    matrix = f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
    return _section("Parity", f"{said}{matrix}<details><summary>What was found</summary>{_list(told)}</details>")


def _settings(found: findings.Report) -> str:
    lines = [
        (str(one.threads), str(one.rows), words.milliseconds(one.ms), f"{one.rows_per_s:,.4g}")
        for one in found.settings
    ]
    table = pages.table(("threads", "rows in one run", "one run", "rows/s"), lines) if lines else ""
    return _section("Threads and batches of the form that is served", table)


def _cost(found: findings.Report) -> str:
    names = {"before": "$ for a million rows, before", "after": "$ for a million rows, after"}
    lines = [(names.get(name, name.replace("_", " ")), f"{value:.4g}") for name, value in found.cost.items()]
    return _section("Cost", pages.table(("", ""), lines) if lines else "")


def _recipe(found: findings.Report) -> str:
    said = "<p>The same steps again: <code>windlass optimize ... --replay FILE</code> with this file.</p>"
    return _section("Recipe", f"{said}<pre>{_text(found.recipe)}</pre>" if found.recipe else "")


def _text(text: str) -> str:
    """A text of several lines."""
    return "\n".join(pages.escaped(line) for line in text.splitlines())


def _limits(found: findings.Report) -> str:
    took = f"The study took {found.seconds:.0f} s. Figures hold for this machine, these rows and these versions."
    return _section("Notes and limits", _list([*found.notes, took]))
