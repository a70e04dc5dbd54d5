"""What people do today to make a model quicker: onnxruntime's defaults, torch.compile, torchao; on the same rows.

Called by `optimize.py` with the original's files and its live module. Each peer is used as its own first page says,
with its own defaults. Must never be given a choice that its users would not have made.
"""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TORCHAO = ROOT / ".venvs" / "torchao"
TORCHAO_VERSION = "0.18.0"
Arrays = dict[str, np.ndarray]
Peer = tuple[str, Callable[[Arrays], Any], int]


def _prepared(model: Path, folder: Path) -> str:
    """After onnxruntime's own preprocessing, as its page asks."""
    from onnxruntime.quantization import shape_inference

    shape_inference.quant_pre_process(str(model), str(folder / "prepared.onnx"))
    return str(folder / "prepared.onnx")


def static(model: Path, folder: Path, batches: Sequence[Arrays]) -> Path:
    """`onnxruntime.quantization.quantize_static` with its defaults."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._rows = iter(batches)

        def get_next(self) -> Arrays | None:
            return next(self._rows, None)

    made = folder / "static.onnx"
    quantization.quantize_static(_prepared(model, folder), str(made), Reader())
    return made


def dynamic(model: Path, folder: Path, _: Sequence[Arrays]) -> Path:
    """`onnxruntime.quantization.quantize_dynamic` with its defaults."""
    from onnxruntime import quantization

    made = folder / "dynamic.onnx"
    quantization.quantize_dynamic(_prepared(model, folder), str(made))
    return made


ONNX = {"onnxruntime quantize_static": static, "onnxruntime quantize_dynamic": dynamic}


def onnx_peers(data: bytes, batches: Sequence[Arrays]) -> list[tuple[str, bytes | str]]:
    """Each of onnxruntime's, its file's bytes or the error with which it ended."""
    found: list[tuple[str, bytes | str]] = []
    for name, make in ONNX.items():
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = Path(folder, "model.onnx")
            model.write_bytes(data)
            try:
                found.append((name, make(model, Path(folder), batches).read_bytes()))
            except Exception as e:
                found.append((name, f"{type(e).__name__}: {e}"[:300]))
    return found


def compiled(module: Any, inputs: Arrays) -> Callable[[Arrays], Arrays]:
    """`torch.compile` of the module, compiled by its first call."""
    import torch

    quick = torch.compile(copy.deepcopy(module).eval())
    return _callable(quick, inputs)


def torchao(module: Any, inputs: Arrays) -> Callable[[Arrays], Arrays]:
    """torchao's int8 dynamic quantization of every Linear, compiled, as its page for servers says."""
    import torch

    if importlib.util.find_spec("torchao") is None:
        _install_torchao()
    from torchao import quantization

    quick = copy.deepcopy(module).eval()
    quantization.quantize_(quick, quantization.Int8DynamicActivationInt8WeightConfig())
    return _callable(torch.compile(quick), inputs)


TORCH = {"torch.compile": compiled, "torchao int8 + torch.compile": torchao}


def _callable(network: Any, inputs: Arrays) -> Callable[[Arrays], Arrays]:
    import torch

    def run(given: Arrays) -> Arrays:
        with torch.inference_mode():
            answer = network(*(torch.from_numpy(value) for value in given.values()))
        return {"result": answer.numpy()}

    run(inputs)
    return run


def _install_torchao() -> None:
    """Into a folder of its own, beside the product's libraries and never among them."""
    if not (TORCHAO / "torchao").is_dir():
        install = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(TORCHAO))
        subprocess.run([*install, f"torchao=={TORCHAO_VERSION}"], check=True)
    sys.path.append(str(TORCHAO))
    importlib.invalidate_caches()
