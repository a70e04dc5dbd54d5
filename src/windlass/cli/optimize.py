"""`windlass optimize`: the best form of a version within a budget as a new version, or why it stays as it is.

Must never register what was not confirmed, nor answer 0 where a budget that was set is met by nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from windlass import errors, references, sdk
from windlass.cli import check, inspect, output, planes, progress, show
from windlass.optimization import budget, findings, recipe, search, study
from windlass.optimization.report import page
from windlass.packaging import dataset
from windlass.packaging import package as packages
from windlass.types import refs

_STUDIES = "studies"


class Wishes(msgspec.Struct, frozen=True):
    """The options of the command."""

    data: Path | None
    labels: str | None
    metric: str | None
    max_drop: str
    max_latency: str | None
    max_size: str | None
    max_memory: str | None
    goal: str
    techniques: str
    model: str | None
    student: str | None
    teachers: tuple[str, ...]
    train: Path | None
    time: str
    trials: int
    seed: int
    batches: tuple[int, ...]
    threads: int
    slices: tuple[str, ...]
    adversarial: bool
    price: float
    replay: Path | None
    report: Path | None
    alias: str
    dry_run: bool
    allow_weaker_sandbox: bool


_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--data", type=_PATH, help="Rows to judge on: .csv, .npz, .json, .ndjson. Without them: label-free.")
@click.option("--labels", help="The column of labels, or a file with one a line.")
@click.option("--metric", help="accuracy, balanced_accuracy, f1, mae, rmse or r2.  [by the model and the labels]")
@click.option("--max-drop", default="0.5%", show_default=True, help="Of the metric: 0.5%, 0.002 in its unit, or any.")
@click.option("--max-latency", help="The most that a run at the first --batch takes, such as 5ms.")
@click.option("--max-size", help="The most that the model's files have, such as 20MB.")
@click.option("--max-memory", help="The most that loading and running it adds, such as 200MB.")
@click.option(
    "--goal",
    type=click.Choice(["latency", "throughput", "size", "memory"]),
    default="latency",
    show_default=True,
    help="What the form is best at within the rest.",
)
@click.option("--techniques", default="", metavar="A,B", help="Try these only.")
@click.option("--model", metavar="MODULE:FACTORY", help="Makes the trained PyTorch module that the version came from.")
@click.option("--student", metavar="MODULE:FACTORY", help="Makes an untrained network for distillation.")
@click.option("--teacher", "teachers", multiple=True, metavar="REF", help="A version to learn from; may be repeated.")
@click.option("--train", type=_PATH, help="Rows to train on, apart from --data; labels as there.")
@click.option("--time", default="10m", show_default=True, help="The most that it all takes.")
@click.option("--trials", default=0, type=click.IntRange(0), help="So many more forms, drawn by optuna.")
@click.option("--seed", default=0, type=click.IntRange(0, 2**31 - 1), help="Of the split, of training and the search.")
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1), help="Rows of a measured run.  [1 and 8]")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Of one run.")
@click.option("--slices", multiple=True, metavar="COLUMN", help="Tell of the worst values of a column.")
@click.option("--adversarial", is_flag=True, help="Judge what is chosen on rows with unsettling noise, too.")
@click.option(
    "--price",
    default=study.PRICE_PER_CORE_HOUR,
    show_default=True,
    type=click.FloatRange(0),
    help="Of a core for an hour.",
)
@click.option(
    "--replay", type=_PATH, metavar="RECIPE.toml", help="Make the form of a recipe; measured and judged all the same."
)
@click.option("--report", type=_PATH, metavar="FILE.html", help="Write the report as one page.")
@click.option("--alias", default="", help="Point this alias to the new version.")
@click.option("--dry-run", is_flag=True, help="Say what would be tried and how long it takes.")
@click.option("--allow-weaker-sandbox", is_flag=True, help="Go on where this machine lacks a wall of the sandbox.")
@click.pass_obj
def optimize(context: output.Context, /, reference: str, **wished: Any) -> int:
    """Search the forms of the version REF (quantized, fused, pruned, distilled ...) for the best within a budget.

    What is chosen is measured beside the original, confirmed on rows that no choice has seen, and registered as a new
    version with the report. Exit code 4 if nothing meets the budget. After Ctrl-C the same command goes on.
    """
    wishes = Wishes(**wished)
    if wishes.report is not None and wishes.report.exists():
        raise errors.Conflict(f"'{wishes.report}' exists already.", hint="Remove it, or choose another name.")
    if wishes.report is not None and not wishes.report.absolute().parent.is_dir():
        raise errors.NotFound(f"There is no folder '{wishes.report.parent}'.", hint="Check the path of --report.")
    if wishes.alias:
        refs.check_alias(wishes.alias)
    job = _job(context, reference, wishes)
    with progress.steps(context, f"Optimizing {reference}") as step:
        if wishes.dry_run:
            _outlined(context, study.outline(job, progress=step))
            return 0
        found, tried = _run(context, job, step)
    if found is None:
        raise errors.Cancelled(
            f"Interrupted after {tried} form{'' if tried == 1 else 's'}.",
            hint="What was measured is kept: the same command goes on from there.",
        )
    return _concluded(context, job, found, wishes)


def _job(context: output.Context, reference: str, wishes: Wishes) -> study.Job:
    """The study that was asked for; whatever is wrong with it is said before anything is measured."""
    asked = budget.parse(
        max_drop=wishes.max_drop,
        max_latency=wishes.max_latency,
        max_size=wishes.max_size,
        max_memory=wishes.max_memory,
        goal=wishes.goal,
    )
    seconds = budget.seconds(wishes.time)
    names = tuple(study.known(name.strip()) for name in wishes.techniques.split(",") if name.strip())
    replay = recipe.read(_text(wishes.replay)) if wishes.replay is not None else None
    data, labels = _rows(wishes.data, wishes.labels)
    train, _ = _rows(wishes.train, wishes.labels)
    if data is None and labels is not None:
        raise errors.UsageError("--labels says where the labels of --data are, which was not given.")
    student = wishes.student
    return study.Job(
        parent=inspect.open_package(context, reference),
        reference=reference,
        budget=asked,
        data=data,
        labels=labels,
        metric=wishes.metric,
        slices=wishes.slices,
        adversarial=wishes.adversarial,
        techniques=names,
        seconds=seconds,
        trials=wishes.trials,
        seed=wishes.seed,
        batches=wishes.batches or study.BATCHES,
        threads=wishes.threads,
        network=network(wishes.model) if wishes.model else None,
        student=(lambda: network(student)) if student else None,
        teachers=tuple(inspect.open_package(context, each) for each in wishes.teachers),
        train=train,
        replay=replay,
        kept=context.settings.home.absolute() / _STUDIES,
        price=wishes.price,
    )


def _rows(path: Path | None, labels: str | None) -> tuple[dataset.Dataset | None, str | None]:
    if path is None:
        return None, labels
    if labels is None:
        return sdk.rows(path), None
    return check.data_set(path, labels)


def network(text: str) -> Any:
    """What the user's own function makes; it runs here, as the user's code."""
    made = packages.resolve(text)
    if isinstance(made, Path) or not hasattr(made, "state_dict"):
        raise errors.UsageError(
            f"'{text[:100]}' is no PyTorch module.", hint="Name a function that makes one: module:factory"
        )
    return made


def _text(path: Path) -> str:
    if not path.is_file():
        raise errors.NotFound(f"There is no file {path}.", hint="Check the path given with --replay.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise errors.UsageError(f"{path} is no text in UTF-8.") from None


def _run(context: output.Context, job: study.Job, step: Callable[[str], None]) -> tuple[study.Result | None, int]:
    """The study's result; or None, and how many forms had been tried, where Ctrl-C ended it."""
    tried: list[findings.Candidate] = []

    def tell(candidate: findings.Candidate) -> None:
        tried.append(candidate)
        context.say(f"  {candidate.name}: {candidate.why or search.told(candidate)}")

    try:
        return study.run(job, progress=step, tell=tell), len(tried)
    except KeyboardInterrupt:
        return None, len(tried)


def _outlined(context: output.Context, found: study.Outline) -> None:
    lines = [found.profile.words, f"would be tried: {', '.join(found.techniques) or 'nothing'}", *found.notes]
    context.result(found, "\n".join([*lines, f"it would take {found.estimate}"]))


def _concluded(context: output.Context, job: study.Job, found: study.Result, wishes: Wishes) -> int:
    """Registers what was chosen, writes the page, and says what came of it."""
    if wishes.report is not None:
        wishes.report.write_text(page.page(found.report), encoding="utf-8")
    with progress.steps(context, f"Releasing {job.reference}") as step, planes.registry(context) as registry:
        made = sdk.conclude(
            registry, context.settings, job, found, progress=step, allow_weaker=wishes.allow_weaker_sandbox
        )
        if made.version is not None and wishes.alias:
            registry.move_alias(
                made.version.name,
                wishes.alias,
                made.version.version,
                actor=references.actor(),
                reason="windlass optimize",
            )
    context.result(made, lambda: _shown(made))
    if wishes.report is not None:
        context.say(f"wrote {wishes.report}")
    if found.report.verdict == "missed":
        raise errors.GateRefused(found.report.sentence, hint="Nothing was registered. Ask for less, or give more time.")
    return 0


def _shown(made: sdk.Optimized) -> str:
    text = show.text(made.report)
    return text if made.version is None else f"{text}\n\n{made.version}  {made.version.digest}"
