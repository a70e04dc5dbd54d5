"""Captures from a file that may carry code (pickle, joblib, a torch checkpoint): in a confined child, once.

Called by `packaging/package.py` for sources whose plugin says `carries_code`. Must never load such a file in this
process, nor try another loader when the one that was asked for fails.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path

import msgspec

from windlass import errors, plugins
from windlass.packaging import draft
from windlass.packaging.capture import base, exchange, sandboxed_child
from windlass.security import sandbox, temporary

LIMITS = sandbox.Limits(memory=8 * sandbox.GIB, wall_s=900.0, cpu_s=3600, disk=4 * sandbox.GIB)


def capture(
    source: Path,
    plugin: str,
    options: base.Options,
    *,
    allow_weaker: bool = False,
    limits: sandbox.Limits = LIMITS,
) -> draft.Draft:
    """The draft of the model in `source`, as `plugin` (a name in the catalogue) captured it behind walls.

    The plugin's own errors come back as they were raised. `CaptureFailed` when the child crashed or was stopped,
    `NotAllowed` when this machine cannot confine it, `CorruptPackage` when its answer breaks a rule,
    `NotFound` when there is no such file.
    """
    if not source.exists():
        raise errors.NotFound(f"there is no file '{source.name}'.", hint="Check the path.")
    source = source.resolve()
    import_from, readable = _beyond_python(plugin)
    with temporary.folder("windlass-capture-") as scratch:
        exchange.write_options(scratch / sandboxed_child.QUESTION, options)
        result = sandbox.run(
            ("windlass.packaging.capture.sandboxed_child", plugin, str(source), str(limits.disk)),
            scratch=scratch,
            readable=[source, *readable],
            import_from=import_from,
            limits=limits,
            allow_weaker=allow_weaker,
        )
        if result.returncode != 0:
            raise _stopped(source.name, result, limits)
        answer = exchange.read_answer(scratch / sandboxed_child.ANSWER, limits.disk)
    if isinstance(answer, exchange.Failure):
        raise _raised(answer)
    if answer.runtime != options.runtime:
        # A hostile file may answer in the plugin's place: what it hands over must be of the kind that was asked for.
        raise errors.CorruptPackage(f"the child's answer is a model for a runtime other than '{options.runtime}'")
    weaker = tuple(f"captured without the wall '{wall}': this machine has none" for wall in result.missing)
    return msgspec.structs.replace(answer, notes=(*answer.notes, *weaker))


def _beyond_python(plugin: str) -> tuple[list[Path], list[Path]]:
    """For a third party's plugin that lies outside Python's own folders: where to import it from, what to read."""
    top = plugins.entry("capture", plugin).object.partition(":")[0].partition(".")[0]
    found = importlib.util.find_spec(top)
    if top == "windlass" or found is None or found.origin is None:
        return [], []
    origin = Path(found.origin)
    package = origin.parent if found.submodule_search_locations else origin
    if any(package.is_relative_to(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")):
        return [], []
    return [package.parent], [package, *package.parent.glob("*.dist-info")]


def _stopped(name: str, result: sandbox.Result, limits: sandbox.Limits) -> errors.CaptureFailed:
    """The sentence for a child that did not end by itself, or ended without an answer."""
    because = {
        "time": f"it ran longer than {limits.wall_s:g} s",
        "cpu": f"it used more than {limits.cpu_s} s of processor time",
        "memory": f"it used more than {limits.memory >> 20} MiB of memory",
        "disk": f"it wrote more than {limits.disk >> 20} MiB",
        "threads": f"it started more than {limits.threads} threads",
        "": "it left without an answer",
    }.get(result.killed_by, f"it crashed ({result.killed_by})")
    last = sandbox.last_words(result.stderr)
    return errors.CaptureFailed(
        f"reading '{name}' in the sandbox failed: {because}.",
        hint=f"Its last words were: {last}" if last else "Capture from a format without code, such as ONNX.",
    )


def _raised(failure: exchange.Failure) -> errors.WindlassError:
    """The child's error as our own; a code that we do not know is a failed capture."""
    pending, known = [errors.WindlassError], {}
    while pending:
        kind = pending.pop()
        known[kind.code] = kind
        pending += kind.__subclasses__()
    kind = known.get(failure.code, errors.CaptureFailed)
    return kind(sandbox.plain_text(failure.message), hint=sandbox.plain_text(failure.hint))
