"""Facts of the machine on which something was measured.

Used by `windlass bench` and the benchmarks. Must never fail: what cannot be read is left out.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

# What decides how fast a model runs on an x86 or ARM processor.
_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "sve",
    "i8mm",
    "bf16",
)
_LIBRARIES = ("windlass", "onnxruntime", "numpy", "uvloop", "httptools", "hpack")


def facts() -> dict[str, Any]:
    """Processor, cores, the cores that this process may use, instruction sets, memory, versions, load before."""
    lines: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            lines.setdefault(name.strip(), value.strip())
    flags = (lines.get("flags") or lines.get("Features") or "").split()
    found: dict[str, Any] = {
        "cpu": lines.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)),
        "isa": [flag for flag in _FLAGS if flag in flags],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }
    with contextlib.suppress(OSError, ValueError):
        found["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    versions = {}
    for library in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return {**found, "versions": versions}
