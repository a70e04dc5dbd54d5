"""The first load of a package, in a confined child at low priority: if the native runtime dies, nobody else does.

Called before a version is served, by the command line and by the supervisor's launcher. The child checks digests,
signature and golden outputs (`session.open`); a crash, a time-out or a wrong answer is a verdict, never an exception.
Verdicts are remembered per package, software and instruction set. Must never load a model in this process.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
import secrets
import tempfile
import time
from pathlib import Path

import msgspec

from windlass import errors
from windlass.packaging import archive
from windlass.security import sandbox
from windlass.types import evidence, strict_json

PASSED = "passed"
_MEMORY_FLOOR = 4 * sandbox.GIB
_MEMORY_FACTOR = 6  # of the package's bytes: the file, the parsed graph, prepacked weights, buffers
# These may be the machine's fault on a bad day: such a verdict is not kept.
_TRANSIENT = ("time", "cpu", "SIGKILL")
# Instruction sets that change which kernels a runtime picks, by their names in /proc/cpuinfo.
_ISA = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2"),
)


class _Remembered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    software: str
    isa: str
    evidence: evidence.Evidence


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
    remembered = None if verdicts is None else known(opened, verdicts)
    if remembered is not None:
        return remembered
    size = sum(ref.size for ref in opened.manifest.blobs().values())
    if limits is None:
        memory = _MEMORY_FLOOR + _MEMORY_FACTOR * size
        limits = sandbox.Limits(memory=memory, wall_s=300.0, cpu_s=600, disk=sandbox.GIB, niceness=10)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="windlass-probation-") as folder:
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        where = package if isinstance(package, Path) else _written(opened, Path(folder))
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
            "software": _software(),
            "isa": _isa(),
            "walls_missing": list(result.missing),
        },
    )
    if verdicts is not None and result.killed_by not in _TRANSIENT:
        _remember(found, verdicts)
    return found


def known(package: archive.Package, verdicts: Path) -> evidence.Evidence | None:
    """The verdict that was kept for this package, software and instruction set; None also where it is unreadable."""
    try:
        kept = strict_json.decode(_file(package.digest, verdicts).read_bytes(), _Remembered, what="a kept verdict")
    except (OSError, errors.InvalidInput):
        return None
    same = (kept.software, kept.isa, kept.evidence.digest) == (_software(), _isa(), package.digest)
    return kept.evidence if same else None


def _remember(found: evidence.Evidence, verdicts: Path) -> None:
    """Keep a verdict, whole or not at all. A folder that cannot be written only costs the next start its time."""
    partial = verdicts / f".{secrets.token_hex(8)}"
    with contextlib.suppress(OSError):
        verdicts.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            partial.write_bytes(strict_json.canonical(_Remembered(_software(), _isa(), found)))
            partial.replace(_file(found.digest, verdicts))
        finally:
            partial.unlink(missing_ok=True)


def _file(digest: str, verdicts: Path) -> Path:
    key = strict_json.canonical([digest, _software(), _isa()])
    return verdicts / f"{hashlib.sha256(key).hexdigest()}.json"


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


def _software() -> str:
    return " ".join(f"{name}-{importlib.metadata.version(name)}" for name in ("windlass", "onnxruntime"))


def _isa() -> str:
    """The machine and its instruction sets, from the first processor that Linux lists."""
    features: list[str] = []
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                present = value.split()
                features = [feature for feature in _ISA if feature in present]
                break
    return " ".join([platform.machine(), *features])
