"""Runs ONNX models with onnxruntime, on the CPU.

Loaded by `packaging/session.py`; the bytes were checked against their digests and walked for external data before.
Must never give onnxruntime a path: models and their external data go in as memory, so that no file is opened by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnxruntime

from windlass import errors
from windlass.runtimes import base
from windlass.types import signature, tensor

MODEL_FILE = "model.onnx"
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_FATAL = 4


class OnnxModel:
    """A session of onnxruntime. `run` may be called from one thread at a time."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(_spec(meta) for meta in session.get_inputs())
        self.outputs = tuple(_spec(meta) for meta in session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]
        self._text_inputs = tuple(spec.name for spec in self.inputs if spec.datatype == "BYTES")
        self._text_outputs = frozenset(spec.name for spec in self.outputs if spec.datatype == "BYTES")

    def run(self, inputs: tensor.Tensors, outputs: Sequence[str] | None = None) -> tensor.Tensors:
        """The named outputs (None: all); `InternalError` with onnxruntime's reason if the run fails."""
        if self._text_inputs:
            inputs = {**inputs, **{name: _to_text(name, inputs[name]) for name in self._text_inputs}}
        names = self._output_names if outputs is None else list(outputs)
        try:
            results = self._session.run(names, inputs)
        except Exception as e:  # noqa: BLE001 - onnxruntime raises bare exceptions of several kinds
            raise errors.InternalError(f"the model's run failed: {e}") from None
        answer = dict(zip(names, results, strict=True))
        for name in self._text_outputs.intersection(names):
            answer[name] = _to_bytes(answer[name])
        return answer

    def unload(self) -> None:
        """Release the session."""
        self._session = None


class OnnxRuntime:
    """The plugin."""

    name: ClassVar[str] = "onnx"
    platform: ClassVar[str] = "onnxruntime_onnx"
    carries_code: ClassVar[bool] = False

    @classmethod
    def sniff(cls, head: bytes) -> bool:
        """ONNX is a protobuf without a magic number; its first field is nearly always `ir_version`."""
        return head[:1] == b"\x08"

    @classmethod
    def load(cls, files: base.Files, options: base.Options) -> OnnxModel:
        """A session from `model.onnx` and, beside it, external data by the names that the model gives."""
        return OnnxModel(session(files, settings(options)))


def settings(options: base.Options) -> Any:
    """onnxruntime's options of a session, as models are served."""
    found = onnxruntime.SessionOptions()
    found.intra_op_num_threads = options.threads
    found.inter_op_num_threads = 1
    found.log_severity_level = _FATAL
    if not options.optimize:
        found.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Idle threads must not spin: the event loop shares these cores.
    found.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return found


def session(files: base.Files, chosen: Any) -> Any:
    """onnxruntime's session from a model's files; `CorruptPackage` with its reason where it refuses them."""
    if MODEL_FILE not in files:
        raise errors.CorruptPackage(f"the package has no '{MODEL_FILE}' for the onnx runtime")
    external = [name for name in files if name != MODEL_FILE]
    if external:
        buffers = [np.frombuffer(files[name], dtype=np.uint8) for name in external]
        chosen.add_external_initializers_from_files_in_memory(external, buffers, [b.size for b in buffers])
    try:
        return onnxruntime.InferenceSession(bytes(files[MODEL_FILE]), chosen, providers=["CPUExecutionProvider"])
    except Exception as e:  # noqa: BLE001 - onnxruntime raises bare exceptions of several kinds
        raise errors.CorruptPackage(f"onnxruntime refuses the model: {e}") from None


def _spec(meta: Any) -> signature.TensorSpec:
    if meta.type not in _DATATYPES:
        raise errors.Unsupported(f"tensor '{meta.name}' is a {meta.type}: only tensors of plain datatypes are served")
    shape = tuple(d if isinstance(d, int) else (d or f"{meta.name}_{axis}") for axis, d in enumerate(meta.shape))
    return signature.TensorSpec(name=meta.name, datatype=_DATATYPES[meta.type], shape=shape)


def _to_text(name: str, array: tensor.Array) -> tensor.Array:
    """onnxruntime takes text as str; ours is bytes. Arrays that are text already pass."""
    try:
        flat = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError:
        raise errors.InvalidInput(f"input '{name}' has an element that is not UTF-8") from None
    text = np.empty(len(flat), dtype=object)
    text[:] = flat
    return text.reshape(array.shape)


def _to_bytes(array: tensor.Array) -> tensor.Array:
    data = np.empty(array.size, dtype=object)
    data[:] = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()]
    return data.reshape(array.shape)
