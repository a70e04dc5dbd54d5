"""`windlass profile`: where the time of one run of a version goes, and what could be gained at most.

Must never say what a technique gains, only what it cannot gain more than; nor need any data to say it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import click
import msgspec
import numpy as np

from windlass import errors, sdk
from windlass.cli import inspect, optimize, output, progress
from windlass.optimization import eager, findings
from windlass.optimization import form as forms
from windlass.optimization import profile as profiles
from windlass.optimization.report import page, words
from windlass.packaging import archive, evaluation, session
from windlass.types import tensor, tensor_codec

_WIDE = 40
_MOST = 12


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--batch", "rows", default=1, show_default=True, type=click.IntRange(1), help="Rows of one run.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Of one run.")
@click.option("--data", type=click.Path(path_type=Path), help="Rows to run: .csv, .npz, .json.  [the golden inputs]")
@click.option("--labels", help="The column of --data that the model does not take.")
@click.option(
    "--model", metavar="MODULE:FACTORY", help="Also the PyTorch module that it came from, as PyTorch runs it."
)
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write it as one page.")
@click.pass_obj
def profile(
    context: output.Context,
    reference: str,
    rows: int,
    threads: int,
    data: Path | None,
    labels: str | None,
    model: str | None,
    html: Path | None,
) -> None:
    """Show which operators of the version REF take the time of a run, and the most that each technique could gain."""
    if html is not None and html.exists():
        raise errors.Conflict(f"'{html}' exists already.", hint="Remove it, or choose another name.")
    package = inspect.open_package(context, reference)
    with progress.steps(context, f"Profiling {reference}") as step:
        step("loading it")
        inputs = _inputs(package, rows, data, labels)
        spec = package.manifest.model
        files = {name: bytes(held) for name, held in package.model_files().items()}
        form = forms.Form(files=files, runtime=spec.runtime, precision=spec.precision)
        step("running it")
        found = profiles.profile(form, inputs, rows=rows, threads=threads, techniques=profiles.installed())
        live = None
        if model is not None:
            step("running the module")
            live = eager.profiled(optimize.network(model), inputs, rows=rows, threads=threads)
    if html is not None:
        try:
            html.write_text(page.profiled(reference, found, live), encoding="utf-8")
        except OSError as e:
            raise errors.Unavailable(f"'{html}' cannot be written: {e.strerror}.", hint="Check the path.") from None
        context.say(f"wrote {html}")
    told = {"package": package.digest, "profile": msgspec.to_builtins(found), "eager": msgspec.to_builtins(live)}
    context.result(told, lambda: text(found) + (f"\n\nIn PyTorch: {text(live)}" if live is not None else ""))


def _inputs(package: archive.Package, rows: int, data: Path | None, labels: str | None) -> tensor.Tensors:
    """So many rows as the model takes them: of the data set, or the golden ones; again where there are fewer."""
    where: session.Where = "apart" if session.carries_code(package.manifest.model.runtime) else "here"
    with contextlib.closing(session.open(package, where=where)) as loaded:
        if rows > loaded.contract.max_rows or (rows > 1 and not loaded.contract.signature.batched):
            most = loaded.contract.max_rows if loaded.contract.signature.batched else 1
            raise errors.UsageError(
                f"the package takes {most} row{'s' if most != 1 else ''} at once, not {rows}.",
                hint="Give a smaller --batch.",
            )
        if data is None:
            given = tensor_codec.unpack(package.read(package.manifest.golden.inputs))
        else:
            columns = {name: values for name, values in sdk.rows(data).columns.items() if name != labels}
            given = evaluation.prepare(loaded, columns, slice(0, rows))
        if not loaded.contract.signature.batched:
            return given
        return {name: np.take(values, np.arange(rows) % len(values), axis=0) for name, values in given.items()}


def text(found: findings.Profile) -> str:
    """The sentence, bars by operator, the slowest of them, and the bounds."""
    parts = [found.words]
    bars = [(one.kind, one.us, one.calls) for one in found.operators[:_MOST]]
    rest = found.operators[_MOST:]
    if rest:
        bars.append((f"{len(rest)} others", sum(one.us for one in rest), sum(one.calls for one in rest)))
    if found.operators:
        bars.append(("outside operators", found.outside_us, 0))
        parts.append(_bars(bars))
    if found.slowest:
        slowest = [[one.name, one.kind, words.milliseconds(one.us / 1e3)] for one in found.slowest]
        parts.append(output.table(["SLOWEST NODES", "OPERATOR", "TIME"], slowest))
    if found.bounds:
        told = [[one.technique, f"{one.share:.0%}", f"{one.gain:.3g}x", f"{one.speedup:.2f}x"] for one in found.bounds]
        parts.append(output.table(["TECHNIQUE", "COULD TOUCH", "GAIN THERE", "AT MOST IN ALL"], told))
    return "\n\n".join(parts)


def _bars(bars: list[tuple[str, float, int]]) -> str:
    """A line each: what, a bar by its part of the time, the part, the time, how often."""
    whole = sum(us for _, us, _ in bars) or 1.0
    longest = max(us for _, us, _ in bars) or 1.0
    width = max(len(name) for name, _, _ in bars)
    lines = []
    for name, us, calls in bars:
        bar = "#" * max(1 if us else 0, round(us / longest * _WIDE))
        often = f"{calls} call{'s' if calls != 1 else ''}" if calls else ""
        lines.append(
            f"{name:<{width}}  {bar:<{_WIDE}}  {us / whole:6.1%}  {words.milliseconds(us / 1e3):>8}  {often}".rstrip()
        )
    return "\n".join(lines)
