"""The Python face: package a live model, optimize and serve versions, from a script or a notebook.

Reached through `windlass.package`, `windlass.optimize` and `windlass.serve`. Must never do what the CLI cannot: both
are thin over the same rooms.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from windlass import errors, references, settings
from windlass.optimization import budget, findings, record, release, study
from windlass.packaging import archive, dataset, draft, session
from windlass.packaging import package as packages
from windlass.packaging.capture import base
from windlass.registry import registry as registries
from windlass.serving import launch
from windlass.types import manifest, refs, spec, tensor


class Version(msgspec.Struct, frozen=True):
    """A registered version. `created` is False when these bytes were registered before; `notes` are for people."""

    name: str
    version: int
    digest: str
    created: bool = True
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def package(
    model: Any,
    example: Any = None,
    *,
    name: str,
    labels: Sequence[str] = (),
    transforms: Iterable[draft.TransformDraft | Mapping[str, Any]] = (),
    home: str | Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **more: Any,
) -> Version:
    """Capture, check, build and register a model; the registered version.

    `model`: a live object of any framework in the catalogue, a path, or `module:factory`. `example`: real inputs (an
    array, a dict of arrays by input name, a data frame). `transforms` are `{"kind": ..., parameters ...}`. `more` are
    fields of the card (`description`, `licence`, `owner`, `intended_use`) and of capture (`max_batch` rows, `dynamic`,
    `input_names`, `output_names`, `batched`, `seed`). `GateRefused` if a check says no: nothing is registered then.
    """
    configuration = settings.load({"home": home})
    max_batch = more.pop("max_batch", None)
    card = {key: more.pop(key) for key in manifest.Card.__struct_fields__ if key in more}
    unknown = [key for key in more if key not in base.Options.__struct_fields__]
    if unknown:
        raise errors.UsageError(f"package() takes no '{unknown[0]}'. {refs.nearest(unknown[0], _OPTIONS)}".strip())
    options = base.Options(
        example=None if example is None else tensors(example),
        labels=tuple(str(label) for label in labels),
        transforms=tuple(transform_draft(t) for t in transforms),
        **more,
    )
    made = packages.package(
        model,
        name=refs.check_name(name),
        options=options,
        max_batch=max_batch,
        card=manifest.Card(**card),
        progress=progress,
        verdicts=configuration.home / "verdicts",
    )
    return register(configuration, made, description=card.get("description", ""))


def register(configuration: settings.Settings, made: packages.Packaged, *, description: str = "") -> Version:
    """Push a checked package with its evidence into the registry of the settings."""
    registry = references.open_registry(configuration)
    try:
        return push(registry, configuration, made, description=description)
    finally:
        registry.close()


def push(
    registry: registries.Registry, configuration: settings.Settings, made: packages.Packaged, *, description: str = ""
) -> Version:
    """Push a checked package with its evidence, signed by this home where it carries code."""
    name = made.package.manifest.name
    found = made.evidence
    if session.carries_code(made.package.manifest.model.runtime):
        found = (*found, references.signed(configuration, name, made.package.digest))
    pushed = registry.push(made.package, name=name, actor=references.actor(), evidence=found, description=description)
    return Version(name, pushed.version, made.package.digest, pushed.created, made.notes)


class Optimized(msgspec.Struct, frozen=True):
    """What came of a study: the new version (None: what was asked about stays as it is), and the report."""

    version: Version | None
    report: findings.Report

    def __str__(self) -> str:
        return self.report.sentence


def optimize(
    reference: str | Version,
    data: Any = None,
    *,
    labels: str | None = None,
    train: Any = None,
    model: Any = None,
    home: str | Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **more: Any,
) -> Optimized:
    """Find the best form of a version within a budget and register it as a new one, or leave it alone and say why.

    `data`: rows to judge on, with their labels in the column `labels`: a path or a dict of arrays; None: label-free.
    `train`: rows to train on, `model`: the live torch module behind the version (or `module:factory`). `more` are what
    `--max-drop`, `--max-latency`, `--max-size`, `--max-memory`, `--goal` and `--time` take, as text, and fields of a
    study's `Job` (`metric`, `techniques`, `batches`, `threads`, `seed`, `trials`, `slices`, `student`,
    `adversarial`). A budget that nothing meets is the report's verdict `missed`: nothing is registered then.
    """
    configuration = settings.load({"home": home})
    asked = {key: more.pop(key) for key in _BUDGET if key in more}
    seconds = budget.seconds(str(more.pop("time", "10m")))
    unknown = [key for key in more if key not in _STUDY]
    if unknown:
        known = (*_STUDY, *_BUDGET, "time")
        raise errors.UsageError(f"optimize() takes no '{unknown[0]}'. {refs.nearest(unknown[0], known)}".strip())
    registry = references.open_registry(configuration)
    with contextlib.closing(registry):
        ref = refs.parse(str(reference))
        path = ref.kind == "path"
        parent = (
            archive.open_path(Path(ref.path))
            if path
            else archive.open_store(registry.store, registry.resolve(ref).digest)
        )
        job = study.Job(
            parent=parent,
            reference=str(reference),
            budget=budget.parse(**asked),
            data=None if data is None else rows(data),
            labels=labels,
            train=None if train is None else rows(train),
            network=packages.resolve(model) if isinstance(model, str) else model,
            seconds=seconds,
            kept=configuration.home / "studies",
            **more,
        )
        return conclude(registry, configuration, job, study.run(job, progress=progress), progress=progress)


def conclude(
    registry: registries.Registry,
    configuration: settings.Settings,
    job: study.Job,
    found: study.Result,
    *,
    progress: Callable[[str], None] = lambda _: None,
    allow_weaker: bool = False,
) -> Optimized:
    """Register the form that a study chose, with the study as its evidence; or put the study on record of its version.

    `GateRefused` if the chosen form does not pass what every package passes: nothing is registered then.
    """
    version = None
    if found.form is not None and found.confirmed_on is not None:
        made = release.release(
            job.parent,
            found.form,
            found.report,
            found.confirmed_on,
            verdicts=configuration.home / "verdicts",
            progress=progress,
            allow_weaker=allow_weaker,
        )
        version = push(registry, configuration, made, description=found.report.sentence)
    elif refs.parse(job.reference).kind != "path":
        registry.add_evidence(record.kept(found.report), actor=references.actor())
    study.forget(found)
    return Optimized(version, found.report)


def rows(given: Any) -> dataset.Dataset:
    """A data set from a path, or from arrays by name (axis 0 is the row)."""
    if isinstance(given, dataset.Dataset):
        return given
    if isinstance(given, str | Path):
        path = Path(given)
        if not path.is_file():
            raise errors.NotFound(f"There is no file {path}.", hint="Check the path of the data set.")
        return dataset.read(path.read_bytes(), path.suffix.lower())
    found = tensors(given)
    digest = hashlib.sha256()
    for name, values in sorted(found.items()):
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(repr(values.tolist()).encode() if values.dtype.hasobject else np.ascontiguousarray(values).data)
    return dataset.Dataset(found, f"sha256:{digest.hexdigest()}")


_BUDGET = ("max_drop", "max_latency", "max_size", "max_memory", "goal")
_STUDY = ("metric", "techniques", "batches", "threads", "seed", "trials", "slices", "student", "price", "adversarial")


def serve(
    *versions: str | Version | Path,
    home: str | Path | None = None,
    port: int = 0,
    admin_port: int = 0,
    workers: int = 0,
    log: Path | None = None,
) -> launch.Server:
    """Start a server for these versions on loopback, wait until they answer, and stop it at the end of the `with`.

    Port 0 is any free one: ask the server for its `url`. `workers` are processes that answer; 0: the server chooses.
    """
    configuration = settings.load({"home": home})
    wanted = spec.Spec(
        endpoints=references.endpoints(configuration, [str(version) for version in versions]),
        listen=f"127.0.0.1:{port}",
        admin=f"127.0.0.1:{admin_port}",
        workers=workers,
    )
    return launch.Server(wanted, configuration.home, log=log)


def tensors(example: Any) -> tensor.Tensors:
    """Arrays by name from what people have at hand: an array, a tensor, a list, a dict of them, a data frame."""
    if hasattr(example, "to_dict") and hasattr(example, "columns"):
        return {str(column): np.asarray(example[column]) for column in example.columns}
    if isinstance(example, Mapping):
        return {str(key): _array(value) for key, value in example.items()}
    return {"": _array(example)}


def transform_draft(given: draft.TransformDraft | Mapping[str, Any]) -> draft.TransformDraft:
    """A transform from its parameters with their `kind` among them."""
    if isinstance(given, draft.TransformDraft):
        return given
    parameters = dict(given)
    if "kind" not in parameters:
        raise errors.UsageError("a transform says its kind: {'kind': 'image', ...}")
    return draft.TransformDraft(str(parameters.pop("kind")), parameters)


_OPTIONS = (*base.Options.__struct_fields__, *manifest.Card.__struct_fields__)


def _array(value: Any) -> tensor.Array:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind in "US":
        return array.astype(object)
    return array
