"""The first load of a package, in a confined child at low priority: if the native runtime dies, nobody else does.

Called by `package.py` and the command line; a server starts it as a command of its own (`python -m`), so that it holds
nothing of the sandbox itself. The child checks digests,
signature and golden outputs (`session.open`); a crash, a time-out or a wrong answer is a verdict, never an exception.
Verdicts are remembered per package, software and instruction set. Must never load a model in this process.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from windlass.packaging import archive, session
from windlass.packaging import verdicts as kept
from windlass.security import sandbox, temporary
from windlass.storage import blobs
from windlass.types import evidence, strict_json

PASSED = "passed"
_MEMORY_FLOOR = 4 * sandbox.GIB
_MEMORY_FACTOR = 6  # of the package's bytes: the file, the parsed graph, prepacked weights, buffers
# These may be the machine's fault on a bad day: such a verdict is not kept.
_TRANSIENT = ("time", "cpu", "SIGKILL")


def run(
    package: archive.Package | Path,
    *,
    verdicts: Path | None = None,
    limits: sandbox.Limits | None = None,
    allow_weaker: bool = False,
) -> evidence.Evidence:
    """Load the package in a child and run its golden inputs; the verdict, with the reason where it failed.

    A path is read where it lies; a package from elsewhere (the blob store) is first written beside the child.
    With `verdicts`, a folder, a known verdict is returned without starting a child, and a new one is kept.
    `NotAllowed` if this machine cannot confine the child; `NotFound` or `CorruptPackage` without a readable manifest.
    """
    opened = archive.open_path(package) if isinstance(package, Path) else package
    remembered = None if verdicts is None else kept.known(opened.digest, verdicts)
    if remembered is not None:
        return remembered
    size = sum(ref.size for ref in opened.manifest.blobs().values())
    if limits is None:
        memory = _MEMORY_FLOOR + _MEMORY_FACTOR * size
        limits = sandbox.Limits(memory=memory, wall_s=300.0, cpu_s=600, disk=sandbox.GIB, niceness=10)
    started = time.monotonic()
    with temporary.folder("windlass-probation-") as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        where = package if isinstance(package, Path) else _written(opened, folder)
        result = sandbox.run(
            ("windlass.packaging.probation_child", str(where.resolve())),
            scratch=scratch,
            readable=[where],
            limits=limits,
            allow_weaker=allow_weaker,
        )
    reason = _reason(result, opened.digest)
    found = evidence.Evidence(
        digest=opened.digest,
        kind="verify",
        verdict="failed" if reason else "passed",
        statistics={
            "check": "probation",
            "reason": reason,
            "seconds": round(time.monotonic() - started, 3),
            "software": kept.software(),
            "isa": kept.isa(),
            "walls_missing": list(result.missing),
        },
    )
    if verdicts is not None and result.killed_by not in _TRANSIENT:
        kept.remember(found, verdicts)
    return found


def _written(package: archive.Package, folder: Path) -> Path:
    where = folder / "package"
    archive.write_folder(package, where)
    return where


def _reason(result: sandbox.Result, digest: str) -> str:
    """Why the load failed; empty if it did not. Leaving with 0 but without the word counts as failed."""
    said = sandbox.last_words(result.stdout)
    if result.returncode == 0 and said.endswith(f"{PASSED} {digest}"):
        return ""
    if result.killed_by == "time":
        return "loading it and running its golden inputs took too long"
    if result.killed_by in ("cpu", "memory", "disk", "threads"):
        return f"loading it used more {result.killed_by} than allowed"
    if result.killed_by:
        return f"the runtime crashed ({result.killed_by}) while loading it or running its golden inputs"
    return said or sandbox.last_words(result.stderr) or f"the child left with exit code {result.returncode}"


def main() -> None:
    """The command: judge the package at `--path`, or `--digest` in the blob store `--store`; the evidence on stdout.

    For formats that carry no code, what walls this machine lacks is said in the evidence, and does not stop it.
    """
    parser = argparse.ArgumentParser(prog="windlass-probation")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--store")
    parser.add_argument("--digest", required=True)
    parser.add_argument("--verdicts", type=Path, required=True)
    options = parser.parse_args()
    if options.path:
        package = archive.open_path(options.path)
    else:
        package = archive.open_store(blobs.BlobStore(options.store), options.digest)
    weaker = not session.carries_code(package.manifest.model.runtime)
    found = run(options.path or package, verdicts=options.verdicts, allow_weaker=weaker)
    sys.stdout.write(strict_json.canonical(found).decode())


if __name__ == "__main__":
    main()
