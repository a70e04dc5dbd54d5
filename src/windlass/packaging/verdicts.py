"""Verdicts of probation loads, kept per package, software and instruction set.

Read by serving before a load, written by `probation.py`. Must never import the sandbox: a server only reads verdicts.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import platform
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

from windlass import errors
from windlass.types import evidence, strict_json

# Instruction sets that change which kernels a runtime picks, by their names in /proc/cpuinfo; with what each builds on.
_ISA = {
    **dict.fromkeys(("sse4_2", "avx", "avx2", "fma", "f16c"), ""),
    "avx_vnni": "avx2",
    **dict.fromkeys(("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"), "avx2"),
    **dict.fromkeys(("amx_tile", "amx_int8", "amx_bf16"), "avx512f"),
    "asimd": "",
    **dict.fromkeys(("asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2"), "asimd"),
}
_NUMPY_NAMES = {"sse4_2": "SSE42", "fma": "FMA3"}


class _Remembered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    software: str
    isa: str
    evidence: evidence.Evidence


def known(digest: str, verdicts: Path) -> evidence.Evidence | None:
    """The verdict that was kept for this package, software and instruction set; None also where it is unreadable."""
    try:
        kept = strict_json.decode(_file(digest, verdicts).read_bytes(), _Remembered, what="a kept verdict")
    except (OSError, errors.InvalidInput):
        return None
    same = (kept.software, kept.isa, kept.evidence.digest) == (software(), isa(), digest)
    return kept.evidence if same else None


def remember(found: evidence.Evidence, verdicts: Path) -> None:
    """Keep a verdict, whole or not at all. A folder that cannot be written only costs the next start its time."""
    partial = verdicts / f".{secrets.token_hex(8)}"
    with contextlib.suppress(OSError):
        verdicts.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            partial.write_bytes(strict_json.canonical(_Remembered(software(), isa(), found)))
            partial.replace(_file(found.digest, verdicts))
        finally:
            partial.unlink(missing_ok=True)


def _file(digest: str, verdicts: Path) -> Path:
    key = strict_json.canonical([digest, software(), isa()])
    return verdicts / f"{hashlib.sha256(key).hexdigest()}.json"


@functools.cache
def software() -> str:
    """What a verdict depends on besides the package: our own version and onnxruntime's."""
    return " ".join(f"{name}-{importlib.metadata.version(name)}" for name in ("windlass", "onnxruntime"))


@functools.cache
def isa() -> str:
    """The machine and its instruction sets, as this process has them.

    numpy asks the processor itself. What it does not ask for comes from the first processor that Linux lists: that
    may be another than the one that an emulator plays, so what it builds on must be there too.
    """
    listed: set[str] = set()
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                listed = set(value.split())
                break
    return " ".join([platform.machine(), *_present(listed, _multiarray_umath.__cpu_features__)])


def _present(listed: Collection[str], asked: Mapping[str, bool]) -> list[str]:
    """The instruction sets that are there: by numpy's answers where it has one, else as listed."""
    found: list[str] = []
    for feature, needs in _ISA.items():
        known = asked.get(_NUMPY_NAMES.get(feature, feature.replace("_", "").upper()))
        if (feature in listed and (not needs or needs in found)) if known is None else known:
            found.append(feature)
    return found


def lacking(needed: str) -> tuple[str, ...]:
    """What of another machine's `isa()` this one does not have."""
    here = isa().split()
    return tuple(feature for feature in needed.split() if feature not in here)
