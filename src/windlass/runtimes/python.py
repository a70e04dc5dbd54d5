"""Runs a model that is a Python class of the user's own: for what no graph format can say.

Found through the catalogue; off unless the package is signed by a listed key, and then only in a confined process
(`packaging/contained.py`). Must never be loaded into a process that serves.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from windlass import errors
from windlass.runtimes import base, declared
from windlass.types import tensor


class PythonModel:
    """The user's object. `run` calls its `predict(inputs: dict[str, ndarray]) -> dict[str, ndarray]`."""

    def __init__(self, model: Any, tensors: declared.Tensors) -> None:
        self.inputs = tensors.inputs
        self.outputs = tensors.outputs
        self._model = model

    def run(self, inputs: tensor.Tensors, outputs: Sequence[str] | None = None) -> tensor.Tensors:
        """The named outputs (None: all); `InternalError` if the class raises or gives something else."""
        try:
            results = self._model.predict(dict(inputs))
        except Exception as e:  # noqa: BLE001 - the user's own code may raise anything
            raise errors.InternalError(f"the model's run failed: {type(e).__name__}: {e}") from None
        answer = declared.named(results, self.outputs)
        return answer if outputs is None else {name: answer[name] for name in outputs}

    def unload(self) -> None:
        """Let the object go."""
        self._model = None


class PythonRuntime:
    """The plugin: the package's files are a folder that the class is imported from; it is made without arguments."""

    name: ClassVar[str] = "python"
    platform: ClassVar[str] = "python"
    carries_code: ClassVar[bool] = True

    @classmethod
    def sniff(cls, head: bytes) -> bool:  # noqa: ARG003 - the seam's signature
        """Any text may be a program: only a manifest's word makes it one."""
        return False

    @classmethod
    def load(cls, files: base.Files, options: base.Options) -> PythonModel:  # noqa: ARG003 - the seam's signature
        """The object of the declared class, with the package's files around it; `CorruptPackage` if it has none."""
        tensors = declared.read(files, cls.name)
        module, _, attribute = tensors.entry.partition(":")
        folder = Path(tempfile.mkdtemp(prefix="model-"))
        for name, data in files.items():
            path = folder / name
            if ".." in path.parts or not path.is_relative_to(folder):
                raise errors.CorruptPackage(f"the file name '{name}' leads out of the package")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        sys.path.insert(0, str(folder))
        try:
            made = getattr(importlib.import_module(module), attribute)()
        except Exception as e:  # noqa: BLE001 - the user's own code may raise anything
            raise errors.CorruptPackage(f"'{tensors.entry}' cannot be made: {type(e).__name__}: {e}") from None
        if not callable(getattr(made, "predict", None)):
            raise errors.CorruptPackage(f"'{tensors.entry}' has no method predict")
        return PythonModel(made, tensors)
