"""Packages a Python class of the user's own as it is: a folder with the class, and `tensors.json` that declares it.

Found through the catalogue, called by `packaging/package.py` in the sandboxed child, and only where the user asks for
the runtime `python` by name. Must never be chosen because nothing else accepts a folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base, kept
from windlass.runtimes import base as runtimes
from windlass.runtimes import declared, python
from windlass.types import contract, signature

_MOST_BYTES = 1 << 30
_MOST_ROWS = 1 << 20


class PythonClass:
    """The plugin."""

    name: ClassVar[str] = "python_class"
    carries_code: ClassVar[bool] = True
    max_batch: ClassVar[int] = 128

    @classmethod
    def accepts(cls, source: Any) -> bool:
        """A folder that declares its tensors."""
        return isinstance(source, Path) and (source / declared.FILE).is_file()

    @classmethod
    def capture(cls, source: Any, options: base.Options) -> draft.Draft:
        """The draft; `UsageError` unless the runtime was asked for and an example given."""
        if options.runtime != python.PythonRuntime.name:
            raise errors.UsageError(
                f"'{source.name}' is Python code: it runs only where you ask for that.",
                hint="Say --runtime python, or export the model to a format without code.",
            )
        files = _read(source)
        tensors = declared.read(files, python.PythonRuntime.name)
        names = [spec.name for spec in tensors.inputs]
        given = dict(options.example or {})
        if list(given) == [""] and len(names) == 1:
            given = {names[0]: given[""]}
        if sorted(given) != sorted(names):
            raise errors.UsageError(
                f"the example has {', '.join(given) or 'nothing'}: the class takes {', '.join(names)}.",
                hint="Give example inputs with --example.",
            )
        example = {name: given[name] for name in names}
        declares = signature.Signature(tensors.inputs, tensors.outputs)
        contract.Contract(declares, max_rows=_MOST_ROWS, max_elements=_MOST_BYTES).check(example)
        model = python.PythonRuntime.load(files, runtimes.Options())
        program = kept.Program(
            files={name: data for name, data in files.items() if name != declared.FILE},
            run=model.run,
            example=example,
            framework=f"python {sys.version_info.major}.{sys.version_info.minor}",
            source=source.name,
            dynamic={
                spec.name: {a: d for a, d in enumerate(spec.shape) if isinstance(d, str) and a}
                for spec in tensors.inputs
            },
            entry=tensors.entry,
        )
        return kept.capture(program, options)


def _read(folder: Path) -> dict[str, bytes]:
    """The folder's files, one level deep: what a package can name."""
    files: dict[str, bytes] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__pycache__")):
            continue
        if not path.is_file() or path.is_symlink():
            raise errors.UsageError(f"'{path.name}' is no plain file: a packaged folder holds files only.")
        files[path.name] = path.read_bytes()
    if sum(len(data) for data in files.values()) > _MOST_BYTES:
        raise errors.UsageError(f"the folder holds more than the {_MOST_BYTES >> 20} MiB that a package of code may.")
    return files
