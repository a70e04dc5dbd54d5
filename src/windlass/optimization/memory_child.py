"""The child's side of `measure.footprint`: loads one form, runs it, and says how many bytes that took at its peak.

Started by `security/confine.py` with the walls up. Must never import more than a server that runs the form: what it
measures is counted from a process that is idle.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from windlass import plugins
from windlass.runtimes import base
from windlass.types import tensor_codec

_RUNS = 3
_STATUS = Path("/proc/self/status")


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What lies in the folder: the runtime, its options, and the names of the form's files, which are numbered."""

    runtime: str
    threads: int
    optimize: bool
    names: tuple[str, ...]


def write(
    folder: Path, runtime: str, options: base.Options, files: Mapping[str, bytes], inputs: bytes | memoryview
) -> None:
    """Lay out what the child reads."""
    folder.mkdir()
    given = Given(runtime, options.threads, options.optimize, tuple(files))
    (folder / "given.json").write_bytes(msgspec.json.encode(given))
    (folder / "inputs").write_bytes(inputs)
    for number, data in enumerate(files.values()):
        (folder / str(number)).write_bytes(data)


def measure(folder: Path) -> int:
    """Bytes of resident memory at the peak, above those of this process before the form is read.

    The libraries of a runtime count where it loads them with the model, as PyTorch's do.
    """
    given = msgspec.json.decode((folder / "given.json").read_bytes(), type=Given)
    inputs = tensor_codec.unpack((folder / "inputs").read_bytes())
    runtime: type[base.Runtime] = plugins.load("runtimes", given.runtime)
    idle = _bytes("VmRSS")
    files = {name: (folder / str(number)).read_bytes() for number, name in enumerate(given.names)}
    model = runtime.load(files, base.Options(threads=given.threads, optimize=given.optimize))
    for _ in range(_RUNS):
        model.run(inputs)
    return max(0, _bytes("VmHWM") - idle)


def _bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    sys.stdout.write(str(measure(Path(sys.argv[1]))))
