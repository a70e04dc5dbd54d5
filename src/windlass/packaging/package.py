"""The whole way from a trained model to a package: capture, checks of the graph, parity, build, probation.

Called by the command line and by `windlass.package`, in the user's own process: a live model or `module:factory` is the
user's own code. Files that can carry code are captured in a sandboxed child. Must never skip a check, nor try a second
capture source when the first one fails.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from windlass import errors, plugins
from windlass.packaging import archive, build, draft, external_data, parity, probation, session
from windlass.packaging.capture import base, onnx_graph, sandboxed
from windlass.runtimes import base as runtimes
from windlass.types import evidence, manifest

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class Packaged(NamedTuple):
    """A package that passed every check, what was found on the way, and sentences for the person who packages."""

    package: archive.Package
    evidence: tuple[evidence.Evidence, ...]
    notes: tuple[str, ...]


def package(
    source: Any,
    *,
    name: str,
    options: base.Options = base.Options(),  # noqa: B008 - frozen
    max_batch: int | None = None,
    card: manifest.Card = manifest.Card(),  # noqa: B008 - frozen
    progress: Callable[[str], None] = lambda _: None,
    verdicts: Path | None = None,
    allow_weaker: bool = False,
) -> Packaged:
    """Package a model: a live object, a path, or `module:factory`. `progress` is told each step as it begins.

    `max_batch` is the most rows of one request; None is what suits the source. `verdicts` is the folder where probation
    keeps what it found; `allow_weaker` runs the sandbox with what walls this machine has. `CaptureFailed` if the model
    cannot be exported, `GateRefused` if a check says no, `NotFound` or `UsageError` if the source is nothing that can
    be captured.
    """
    found = resolve(source)
    entry, plugin = choose(found)
    options = msgspec.structs.replace(options, max_batch=max_batch or plugin.max_batch)
    progress(f"Capturing with {entry.name}")
    drafted = _capture(found, entry, plugin, options, allow_weaker=allow_weaker)
    made = checked(drafted, name=name, card=card, progress=progress, verdicts=verdicts, allow_weaker=allow_weaker)
    if drafted.synthetic:
        said = "no example was given: what parity was checked on are not your own rows."
        made = made._replace(notes=(*made.notes, said))
    return made


def checked(
    drafted: draft.Draft,
    *,
    name: str,
    card: manifest.Card = manifest.Card(),  # noqa: B008 - frozen
    limits: manifest.Limits | None = None,
    progress: Callable[[str], None] = lambda _: None,
    verdicts: Path | None = None,
    allow_weaker: bool = False,
) -> Packaged:
    """The package of a draft, with the evidence of its parity and of its first load; `GateRefused` if one says no."""
    progress("Checking the graph")
    check_structure(drafted)
    progress(f"Comparing {len(drafted.trials)} trials with {drafted.framework}")
    statistics = _parity(drafted)
    progress("Building the package")
    made = build.build(drafted, name=name, card=card, limits=limits)
    progress("Loading it in a confined process")
    probed = probation.run(made, verdicts=verdicts, allow_weaker=allow_weaker)
    if probed.verdict != "passed":
        raise errors.GateRefused(
            f"the package was quarantined: {probed.statistics.get('reason')}.",
            hint="Nothing was registered. The model crashes or misbehaves in the runtime: export it in another way.",
        )
    agreed = evidence.Evidence(made.digest, "parity", "passed", statistics)
    return Packaged(made, (agreed, probed), drafted.notes)


def resolve(source: Any) -> Any:
    """A path or a live object from what the user named; `NotFound` if it is neither a path nor `module:factory`."""
    if isinstance(source, Path):
        if not source.exists():
            raise errors.NotFound(f"there is no file or folder '{source}'.", hint="Check the path.")
        return source
    if not isinstance(source, str):
        return source
    if Path(source).exists():
        return Path(source)
    if not _FACTORY.fullmatch(source):
        raise errors.NotFound(
            f"there is no file or folder '{source[:200]}'.",
            hint="Name a model file, a Hugging Face folder, or module:factory for a function that makes the model.",
        )
    return _made(source)


def choose(source: Any) -> tuple[plugins.Entry, type[base.CaptureSource]]:
    """The capture source for a live object or a path: by its suffix first, then by asking each in turn.

    `Unsupported` names the library to install, or says what can be captured.
    """
    entries = list(plugins.catalog()["capture"].values())
    if isinstance(source, Path):
        by_suffix = [entry for entry in entries if source.suffix and source.suffix in entry.formats]
        # A known suffix decides: a missing library is then named, not passed over.
        entries = by_suffix or entries
        if len(by_suffix) == 1:
            plugins.load("capture", by_suffix[0].name)
    missing: list[errors.Unsupported] = []
    for entry in entries:
        try:
            plugin: type[base.CaptureSource] = plugins.load("capture", entry.name)
        except errors.Unsupported as e:
            missing.append(e)
            continue
        if plugin.accepts(source):
            return entry, plugin
    what = (
        f"'{source.name}'" if isinstance(source, Path) else f"a {type(source).__module__}.{type(source).__qualname__}"
    )
    suffixes = sorted({suffix for entry in plugins.catalog()["capture"].values() for suffix in entry.formats})
    raise errors.Unsupported(
        f"{what} is nothing that can be captured.",
        hint=missing[0].hint
        if missing
        else f"Known are PyTorch modules, scikit-learn, XGBoost and LightGBM models, Hugging Face folders, and files "
        f"that end in {', '.join(suffixes)}.",
    )


def check_structure(drafted: draft.Draft) -> None:
    """`GateRefused` or `CorruptPackage` unless the graph is what the signature says and breaks no rule.

    Names that collide, sizes burned in where a dimension should be free, versions that onnxruntime does not load, and
    external data outside the package are found here, before any runtime sees the file.
    """
    if drafted.runtime != "onnx":
        return
    external_data.check(drafted.files)
    onnx_graph.check(drafted.files[onnx_graph.MODEL_FILE], drafted.signature)


def _made(text: str) -> Any:
    """What `module:factory` makes. The module is the user's own, imported from the current folder or `sys.path`."""
    module_name, _, attribute = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        made: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        raise errors.NotFound(
            f"the module '{e.name}' cannot be imported.", hint="Run this in the folder that holds it, or install it."
        ) from None
    for part in attribute.split("."):
        if not hasattr(made, part):
            raise errors.NotFound(f"the module '{module_name}' has no '{attribute}'.", hint="Check the name.")
        made = getattr(made, part)
    # A model may itself be callable (a PyTorch module is): only what no source accepts is a factory.
    if not callable(made) or (not isinstance(made, type) and _accepted(made)):
        return made
    try:
        return made()
    except Exception as e:  # noqa: BLE001 - the user's own code may raise anything
        raise errors.CaptureFailed(
            f"'{text}' failed to make the model: {type(e).__name__}: {e}.",
            hint="The factory is called without arguments and returns the model.",
        ) from None


def _accepted(made: Any) -> bool:
    try:
        choose(made)
    except errors.Unsupported:
        return False
    return True


def _capture(
    source: Any, entry: plugins.Entry, plugin: type[base.CaptureSource], options: base.Options, *, allow_weaker: bool
) -> draft.Draft:
    if plugin.carries_code and isinstance(source, Path):
        return sandboxed.capture(source, entry.name, options, allow_weaker=allow_weaker)
    if options.runtime != "onnx" and not isinstance(source, Path):
        raise errors.UsageError(
            f"a live object is packaged for the runtime 'onnx', not '{options.runtime}'.",
            hint="Save it first (torch.jit.save, torch.export.save) and name the file.",
        )
    try:
        return plugin.capture(source, options)
    except ModuleNotFoundError as e:
        raise errors.Unsupported(
            f"capturing with '{entry.name}' needs the library '{e.name}', which is not installed.",
            hint=f"Install it: pip install 'windlass[{entry.extra or 'all'}]'",
        ) from None


def _parity(drafted: draft.Draft) -> dict[str, Any]:
    model = session.load_model(drafted.runtime, drafted.files, runtimes.Options())
    try:
        return parity.check(model, drafted)
    finally:
        model.unload()
