"""Runs PyTorch programs as PyTorch does: TorchScript, programs of torch.export, and compiled ones (AOTInductor).

Found through the catalogue; such files carry code, so they are loaded in a confined process only
(`packaging/contained.py`). Importing this file imports no PyTorch: a server only reads what kind of plugin it is.
Must never unpickle: only what `torch.jit.save`, `torch.export.save` and AOTInductor write.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from windlass import errors
from windlass.runtimes import base, declared
from windlass.types import tensor

_ZIP = b"PK\x03\x04"


class TorchModel:
    """A program in memory: takes and gives arrays. Numbers only; `run` may be called from one thread at a time."""

    def __init__(self, torch: Any, call: Callable[..., Any], tensors: declared.Tensors) -> None:
        self._torch = torch
        self.inputs = tensors.inputs
        self.outputs = tensors.outputs
        self._keywords = tensors.keywords
        self._call: Callable[..., Any] | None = call

    def run(self, inputs: tensor.Tensors, outputs: Sequence[str] | None = None) -> tensor.Tensors:
        """The named outputs (None: all); `InternalError` with PyTorch's reason if the run fails."""
        if self._call is None:
            raise errors.InternalError("the model is unloaded")
        # PyTorch shares memory with the array and must not write into somebody's request.
        torch = self._torch
        given = {s.name: torch.from_numpy(np.array(inputs[s.name], copy=True, order="C")) for s in self.inputs}
        try:
            with torch.inference_mode():
                results = self._call(**given) if self._keywords else self._call(*given.values())
        except Exception as e:  # noqa: BLE001 - a program may raise anything
            raise errors.InternalError(f"the model's run failed: {e}") from None
        answer = declared.named(_arrays(torch, results), self.outputs)
        return answer if outputs is None else {name: answer[name] for name in outputs}

    def unload(self) -> None:
        """Let the program go."""
        self._call = None


class TorchScriptRuntime:
    """The plugin for `model.pt`, written by torch.jit.save."""

    name: ClassVar[str] = "torchscript"
    platform: ClassVar[str] = "pytorch_libtorch"
    carries_code: ClassVar[bool] = True

    @classmethod
    def sniff(cls, head: bytes) -> bool:
        """An archive; only a manifest's word tells it from the other kinds."""
        return head[:4] == _ZIP

    @classmethod
    def load(cls, files: base.Files, options: base.Options) -> TorchModel:
        """The program of `model.pt`, with the tensors that the package declares."""
        torch, tensors = _prepare(files, "model.pt", options, cls.name)
        try:
            module = torch.jit.load(io.BytesIO(files["model.pt"]), map_location="cpu").eval()
        except Exception as e:  # noqa: BLE001 - a damaged archive raises many kinds
            raise errors.CorruptPackage(f"PyTorch refuses the TorchScript: {_first_line(e)}") from None
        return TorchModel(torch, module, tensors)


class TorchExportRuntime:
    """The plugin for `model.pt2`, written by torch.export.save."""

    name: ClassVar[str] = "torch_export"
    platform: ClassVar[str] = "pytorch_export"
    carries_code: ClassVar[bool] = True

    @classmethod
    def sniff(cls, head: bytes) -> bool:
        """An archive; only a manifest's word tells it from the other kinds."""
        return head[:4] == _ZIP

    @classmethod
    def load(cls, files: base.Files, options: base.Options) -> TorchModel:
        """The program of `model.pt2`, with the tensors that the package declares."""
        torch, tensors = _prepare(files, "model.pt2", options, cls.name)
        try:
            module = torch.export.load(io.BytesIO(files["model.pt2"])).module(check_guards=False)
        except Exception as e:  # noqa: BLE001 - a damaged archive raises many kinds
            raise errors.CorruptPackage(f"PyTorch refuses the program: {_first_line(e)}") from None
        return TorchModel(torch, module, tensors)


class CompiledRuntime:
    """The plugin for `model.pt2` with machine code, written by torch._inductor.aoti_compile_and_package."""

    name: ClassVar[str] = "aoti"
    platform: ClassVar[str] = "pytorch_aoti"
    carries_code: ClassVar[bool] = True

    @classmethod
    def sniff(cls, head: bytes) -> bool:
        """An archive; only a manifest's word tells it from the other kinds."""
        return head[:4] == _ZIP

    @classmethod
    def load(cls, files: base.Files, options: base.Options) -> TorchModel:
        """The compiled program. Its library is unpacked into a scratch folder: shared objects are loaded from files."""
        torch, tensors = _prepare(files, "model.pt2", options, cls.name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.pt2"
            path.write_bytes(files["model.pt2"])
            try:
                # The loader alone: the public way around it imports the compiler, which starts programs.
                loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)  # noqa: FBT003, SLF001
            except Exception as e:  # noqa: BLE001 - a damaged archive raises many kinds
                raise errors.CorruptPackage(f"PyTorch refuses the compiled program: {_first_line(e)}") from None
        return TorchModel(torch, lambda *inputs: loader.boxed_run(list(inputs)), tensors)


def _prepare(files: base.Files, name: str, options: base.Options, runtime: str) -> tuple[Any, declared.Tensors]:
    """PyTorch itself, imported only where a program is run, and the tensors that the package declares."""
    import torch

    if name not in files:
        raise errors.CorruptPackage(f"the package has no '{name}' for the {runtime} runtime")
    if options.threads:
        torch.set_num_threads(options.threads)
    return torch, declared.read(files, runtime)


def _arrays(torch: Any, results: Any) -> Any:
    if isinstance(results, torch.Tensor):
        return results.detach().numpy()
    if isinstance(results, dict):
        return {str(name): _arrays(torch, value) for name, value in results.items()}
    if isinstance(results, (tuple, list)):
        return [_arrays(torch, value) for value in results]
    raise errors.InternalError(f"the model gave a {type(results).__name__}: only tensors are served")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
