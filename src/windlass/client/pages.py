"""Pages that ask nobody for anything: one HTML file of text, tables and plots in SVG, light and dark, without a script.

Used by the reports of measurements and of studies. Must never refer to another file, nor put a name into a page without
escaping it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

# Every colour that a plot draws with is one of these classes, so that a page has one look for light and one for dark.
COLOURS = 6
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1f2328; --soft: #57606a; --line: #d0d7de; --faint: #eef1f4;
  --good: #1a7f37; --bad: #b42318; --c0: #1f6feb; --c1: #d1570a; --c2: #1a7f37; --c3: #8250df; --c4: #0f7f8c;
  --c5: #8c959f; }
@media (prefers-color-scheme: dark) { :root { --ground: #0f1419; --ink: #e6edf3; --soft: #9aa5b1; --line: #303841;
  --faint: #1b222a; --good: #4cc26b; --bad: #ff7b6b; --c0: #6cb2ff; --c1: #f5a45c; --c2: #4cc26b; --c3: #c297ff;
  --c4: #4fc4d1; --c5: #7d8894; } }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1.5rem 1rem 4rem;
  color: var(--ink); background: var(--ground); overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .4rem 0 1rem; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, ul { max-width: 52rem; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .92rem; }
td, th { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } td:first-child, th:first-child, .text { text-align: left; }
td.text { min-width: 17rem; max-width: 40rem; white-space: normal; }
figure { margin: 1rem 0; overflow-x: auto; } figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { max-width: 100%; min-width: 34rem; height: auto; display: block; }
svg text { font-size: 12px; fill: var(--soft); }
.axis { stroke: var(--soft); } .grid { stroke: var(--faint); } .limit { stroke: var(--bad); stroke-dasharray: 5 4; }
""" + "".join(
    f".c{n} {{ --own: var(--c{n}); }} .c{n}.fill, .c{n} .fill {{ fill: var(--own); }} "
    f".c{n}.stroke, .c{n} .stroke {{ stroke: var(--own); fill: none; }}\n"
    for n in range(COLOURS)
)
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 14, 16, 46


class Axis(NamedTuple):
    """One axis of a plot: what it says, and the values at its ends."""

    label: str
    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value lies, from 0 to 1; beyond an end counts as that end."""
        if self.logarithmic:
            found = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            found = (value - self.low) / (self.high - self.low)
        return min(max(found, 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Round values on the axis."""
        if not self.logarithmic:
            return steps(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        return [10.0**n * m for n in range(first, last + 1) for m in (1, 2, 5) if self.low <= 10.0**n * m <= self.high]


class Frame(NamedTuple):
    """The axes of a plot, and where a value lies in pixels."""

    x: Axis
    y: Axis
    width: int = 640
    height: int = 320

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixels of a point, inside the axes."""
        return (
            _LEFT + self.x.share(x) * (self.width - _LEFT - _RIGHT),
            self.height - _BOTTOM - self.y.share(y) * (self.height - _BOTTOM - _TOP),
        )

    def drawn(self) -> str:
        """Grid, ticks and labels."""
        left, bottom = self.at(self.x.low, self.y.low)
        right, _ = self.at(self.x.high, self.y.low)
        parts = []
        for y in self.y.ticks():
            _, height = self.at(self.x.low, y)
            parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{height:.1f}" y2="{height:.1f}"/>')
            parts.append(f'<text x="{left - 6:.1f}" y="{height + 4:.1f}" text-anchor="end">{number(y)}</text>')
        for x in self.x.ticks():
            across, _ = self.at(x, self.y.low)
            parts.append(f'<text x="{across:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{number(x)}</text>')
        parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        middle, turned = (left + right) / 2, f"translate(14 {self.height / 2:.0f}) rotate(-90)"
        parts.append(
            f'<text x="{middle:.0f}" y="{self.height - 6}" text-anchor="middle">{escaped(self.x.label)}</text>'
        )
        parts.append(f'<text transform="{turned}" text-anchor="middle">{escaped(self.y.label)}</text>')
        return "".join(parts)


def document(title: str, body: str, style: str = "") -> str:
    """The whole page; the body is HTML already."""
    head = (
        '<meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
        f'<meta name="color-scheme" content="light dark"/><title>{escaped(title)}</title><style>{STYLE}{style}</style>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def figure(title: str, told: str, drawn: str, *, width: int = 640, height: int = 320) -> str:
    """A figure around what is drawn in SVG; `told` says in words what is seen, for who does not see it."""
    name = f'role="img" aria-label="{escaped(f"{title}. {told}" if told else title)}"'
    return (
        f"<figure><figcaption>{escaped(title)}</figcaption>"
        f'<svg viewBox="0 0 {width} {height}" width="{width}" {name}>{drawn}</svg></figure>'
    )


def table(header: Sequence[str], lines: Sequence[Sequence[str]], *, text: Sequence[int] = ()) -> str:
    """A table that scrolls by itself where it is too wide; the columns `text` hold sentences."""

    def row(cells: Sequence[str], kind: str) -> str:
        marked = (' class="text"' if n in text else "" for n in range(len(cells)))
        return "".join(f"<{kind}{mark}>{escaped(cell)}</{kind}>" for cell, mark in zip(cells, marked, strict=True))

    body = "".join(f"<tr>{row(line, 'td')}</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{row(header, "th")}</tr>{body}</table></div>'


def legend(names: Sequence[str], left: int = _LEFT + 8, top: int = _TOP) -> str:
    """The names of the first colours, one below the other, inside a plot."""
    return "".join(
        f'<rect class="c{n % COLOURS} fill" x="{left}" y="{top + 14 * n - 8}" width="10" height="10"/>'
        f'<text x="{left + 16}" y="{top + 14 * n + 1}">{escaped(name)}</text>'
        for n, name in enumerate(names)
    )


def bars(title: str, lines: Sequence[tuple[str, float, str, int]], *, low: float = 0.0) -> str:
    """Horizontal bars from `low`: a name, a value, what is written beside it, and the number of a colour each."""
    width, row, left, right = 760, 22, 210, 170
    height = row * len(lines) + 8
    high = max([value for _, value, _, _ in lines if math.isfinite(value)], default=low)
    axis = Axis("", low, high if high > low else low + 1)
    drawn = []
    for at, (name, value, said, colour) in enumerate(lines):
        top = 4 + at * row
        long = axis.share(value) * (width - left - right)
        drawn.append(f'<text x="{left - 8}" y="{top + 14}" text-anchor="end">{escaped(_short(name))}</text>')
        drawn.append(
            f'<rect class="c{colour % COLOURS} fill" x="{left}" y="{top + 3}" width="{max(long, 1):.1f}" height="14">'
            f"<title>{escaped(f'{name}: {said}')}</title></rect>"
        )
        drawn.append(f'<text x="{left + max(long, 1) + 6:.1f}" y="{top + 14}">{escaped(said)}</text>')
    told = "; ".join(f"{name} {said}" for name, _, said, _ in lines)
    return figure(title, told, "".join(drawn), width=width, height=height)


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"...{name[3 - most :]}"


def number(value: float) -> str:
    """A tick as people read it."""
    return f"{value:,g}"


def escaped(text: str) -> str:
    """A text in which others may have had words, as HTML and XML take it: quotes too, and no control characters."""
    return html.escape("".join(c if c.isprintable() else " " for c in text))


def steps(low: float, high: float) -> list[float]:
    """Round numbers from `low` up to `high`, three to eight of them."""
    rough = (high - low) / 6
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Rounded to the step's own digits: 0.3, not 0.30000000000000004.
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(step * n, digits) for n in range(first, last + 1)]
