"""`windlass bench`: how much a server carries, how quickly, and what that costs.

Must never measure in silence what was limited by the generator, nor leave a server behind.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import click
import msgspec

from windlass import errors
from windlass.cli import bench_page, bench_results, bench_subjects, bench_tune, output
from windlass.client import capacity, inputs, machine, processes, targets

_QUICK = {"connections": (1, 16, 64), "shares": (0.5, 0.8, 1.2), "seconds": 1.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class Wishes(msgspec.Struct, frozen=True):
    """The options of the command."""

    protocol: str
    files: tuple[str, ...]
    lengths: tuple[str, ...]
    rows: int
    key: str | None
    ca: str
    rate: float
    slo_p99: str
    price: float
    page: Path | None
    seconds: float | None
    rounds: int
    generators: int
    quick: bool
    tuning: bool

    @property
    def method(self) -> capacity.Method:
        """How to measure."""
        wanted: dict[str, Any] = dict(_QUICK) if self.quick else {}
        if self.seconds is not None:
            wanted["seconds"] = self.seconds
        return capacity.Method(
            rate=self.rate,
            slo_s=duration(self.slo_p99) if self.slo_p99 else 0.0,
            rounds=self.rounds,
            generators=self.generators,
            **wanted,
        )

    def asking(self, key: str) -> bench_subjects.Asking:
        """How to ask; `key` is the one of the settings."""
        access = targets.Access(key if self.key is None else self.key, self.ca)
        return bench_subjects.Asking(self.protocol, access, inputs.sizes(self.lengths, self.rows), self.files)


def duration(text: str) -> float:
    """Seconds from `20ms`, `1.5s`, `300us`; `UsageError` if it is no time."""
    found = _TIME.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise errors.UsageError(f"'{text[:40]}' is no time.", hint="Write 20ms, 300us or 1.5s.")
    return float(found[1]) * _UNITS[found[2]]


@click.command()
@click.argument("named", nargs=-1, required=True, metavar="REF|URL...")
@click.option("--protocol", type=click.Choice(list(targets.ADAPTERS)), default="oip", show_default=True)
@click.option("--input", "files", multiple=True, help="A request: tensors (.npz), or a file as it is; FILE@SHARE.")
@click.option("--length", "lengths", multiple=True, help="Size of free dimensions; repeated with N@SHARE to mix.")
@click.option("--rows", default=1, show_default=True, type=click.IntRange(1), help="Rows a request.")
@click.option("--key", help="An API key (WINDLASS_CLIENT__KEY).")
@click.option("--ca", default="", help="A PEM file of authorities for https.")
@click.option("--rate", default=0.0, type=click.FloatRange(0), help="One open loop of so many requests a second.")
@click.option("--slo-p99", default="", help="A p99 to hold, such as 20ms: how many requests a second keep it.")
@click.option("--price", default=0.0, type=click.FloatRange(0), help="Price of the server an hour.")
@click.option("--html", "page", type=click.Path(path_type=Path), help="Write tables and plots as one page.")
@click.option("--seconds", type=click.FloatRange(0.1), help="Length of each measurement.  [3; quick: 1]")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(3), help="Rounds of each measurement.")
@click.option("--generators", default=1, show_default=True, type=click.IntRange(1), help="Processes that ask.")
@click.option("--quick", is_flag=True, help="Fewer and shorter measurements.")
@click.option("--tune", "tuning", is_flag=True, help="Try other settings for REF, and say which pays.")
@click.pass_obj
def bench(context: output.Context, /, named: tuple[str, ...], **wished: Any) -> None:
    """Measure what servers carry: closed loops for capacity, open loops (Poisson arrivals) for latency under load.

    REF starts a server for this, on cores of its own; URL is http://host:port/MODEL of a server of any kind. With two,
    each measurement alternates between them, and the ratio is told.
    """
    wishes = Wishes(**wished)
    asking = wishes.asking(context.settings.client.key)
    if len(named) > 2:
        raise errors.UsageError("At most two servers can be compared.")
    if wishes.tuning:
        if len(named) != 1 or bench_subjects.is_url(named[0]):
            raise errors.UsageError("--tune starts servers of its own: give one REF.")
        trials = bench_tune.tune(context.settings, named[0], asking, _placed(wishes, named), context.say)
        context.result(*bench_tune.told(trials))
        return
    facts = machine.facts()
    with contextlib.ExitStack() as held:
        subjects = []
        for number, text in enumerate(named):
            name = text if text not in named[:number] else f"{text} (again)"
            if bench_subjects.is_url(text):
                subject = bench_subjects.at_url(name, text, asking)
            else:
                where = bench_subjects.cores(wishes.generators)
                subject = held.enter_context(bench_subjects.started(context.settings, text, asking, where))
            subjects.append(msgspec.structs.replace(subject, name=name))
        method = _placed(wishes, named)
        running = held.enter_context(processes.Generators(method.generators, method.cores))
        found = capacity.Measurement(subjects, method, context.say, running.run)
        found.measure()
    if wishes.page is not None:
        wishes.page.write_text(bench_page.page(found, wishes.price, facts), encoding="utf-8")
        context.say(f"wrote {wishes.page}")
    context.result(bench_results.document(found, wishes.price, facts), lambda: bench_results.text(found, wishes.price))
    if found.interrupted:
        raise click.exceptions.Exit(errors.Cancelled.exit_code)
    if all(point.doubt for point in found.points):
        raise capacity.refusal(found.points[-1].doubt)


def _placed(wishes: Wishes, named: tuple[str, ...]) -> capacity.Method:
    """The generators have cores of their own where the server is ours."""
    if all(map(bench_subjects.is_url, named)):
        return wishes.method
    return msgspec.structs.replace(wishes.method, cores=bench_subjects.cores(wishes.generators).generators)
