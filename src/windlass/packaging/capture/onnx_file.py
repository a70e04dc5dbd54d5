"""Captures an ONNX file, with its external data beside it, from whatever framework it came.

Found through the catalogue, called by `packaging/package.py`. What the file computes without any optimization is the
original that the package is compared with. Must never hand onnxruntime a path, or open one that was not checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from windlass import errors, plugins
from windlass.packaging import draft, external_data
from windlass.packaging.capture import base, labels, onnx_graph, synthetic, trials
from windlass.runtimes import base as runtimes
from windlass.types import manifest, signature, tensor

_SYNTHETIC_ROWS = 32


class OnnxFile:
    """The plugin."""

    name: ClassVar[str] = "onnx"
    carries_code: ClassVar[bool] = False
    max_batch: ClassVar[int] = 128

    @classmethod
    def accepts(cls, source: Any) -> bool:
        """A path that ends in `.onnx`."""
        return isinstance(source, Path) and source.suffix == ".onnx"

    @classmethod
    def capture(cls, source: Any, options: base.Options) -> draft.Draft:
        """The draft; `CorruptPackage` if the file breaks a rule, `CaptureFailed` if its batch is burned in."""
        given, notes = _read(source)
        model = onnx_graph.parse(given[onnx_graph.MODEL_FILE])
        initialized = set(model.graph.initializers)
        inputs = [value for value in model.graph.inputs if value.name not in initialized]
        if options.input_names or options.output_names:
            names = options.input_names or tuple(value.name or "" for value in inputs)
            outputs = options.output_names or tuple(value.name or "" for value in model.graph.outputs)
            if len(names) != len(inputs) or len(outputs) != len(model.graph.outputs):
                raise errors.UsageError(
                    f"the model has {len(inputs)} inputs and {len(model.graph.outputs)} outputs: give as many names."
                )
            onnx_graph.rename(model, names, outputs)
        _name_dimensions(model, [value.name or "" for value in inputs], options)
        spec = signature.Signature(onnx_graph.specs(inputs), onnx_graph.specs(model.graph.outputs))
        files = {**given, **onnx_graph.files(model)}
        example, synthetic = _example(spec, options)
        recorded = trials.record(_reference(files), spec, example, max_batch=options.max_batch, seed=options.seed)
        transforms, decided = labels.transforms(options, spec, recorded.trials)
        producer = f"{model.producer_name or ''} {model.producer_version or ''}".strip()
        framework = f"onnx ({producer})" if producer else "onnx"
        return draft.Draft(
            files=files,
            signature=recorded.signature,
            trials=recorded.trials,
            framework=framework,
            transforms=transforms,
            labels=options.labels,
            max_batch=recorded.max_batch,
            synthetic=synthetic,
            lineage=manifest.Lineage(framework=framework, source=source.name),
            notes=(*notes, *recorded.notes, *decided),
        )


def _read(path: Path) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The checked files; an IR version newer than onnxruntime's is lowered where the opset allows it."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise errors.NotFound(f"'{path}' cannot be read: {e.strerror}.") from None
    model = onnx_graph.parse(data)
    notes = onnx_graph.pin(model)
    if not notes:
        return external_data.read_files(path), ()
    lowered = onnx_graph.files(model)
    external_data.check(lowered)
    return lowered, notes


def _name_dimensions(model: Any, inputs: list[str], options: base.Options) -> None:
    unknown = [name for name in options.dynamic if name not in inputs]
    if unknown:
        raise errors.UsageError(f"'{unknown[0]}' is no input of the model: {', '.join(inputs)} are.")
    batch = {0: signature.BATCH} if options.batched else {}
    dynamic = {name: {**batch, **options.dynamic.get(name, {})} for name in inputs}
    onnx_graph.name_dimensions(model, dynamic, outputs=signature.BATCH if options.batched else None)


def _example(spec: signature.Signature, options: base.Options) -> tuple[tensor.Tensors, bool]:
    """The user's example under the inputs' names, in their datatypes; or one made from the signature, and True."""
    if not options.example:
        return synthetic.inputs(spec, _SYNTHETIC_ROWS, np.random.default_rng(options.seed)), True
    given = dict(options.example)
    names = [item.name for item in spec.inputs]
    if list(given) == [""] and len(names) == 1:
        given = {names[0]: given[""]}
    if sorted(given) != sorted(names):
        raise errors.InvalidInput(
            f"the example has {', '.join(given)}: the model's inputs are {', '.join(names)}.",
            hint="Name each array of the example as the model names its input.",
        )
    return {item.name: _typed(item, given[item.name]) for item in spec.inputs}, False


def _typed(item: signature.TensorSpec, array: tensor.Array) -> tensor.Array:
    """Floats and integers in the precision that the model takes, if no value changes its meaning by it."""
    wanted = tensor.dtype(item.datatype)
    if array.dtype == wanted or (wanted.hasobject and array.dtype.kind in "SU"):
        return array.astype(wanted)
    if array.dtype.kind == wanted.kind == "f" or (
        array.dtype.kind in "iu" and wanted.kind in "iu" and np.array_equal(array.astype(wanted), array)
    ):
        return array.astype(wanted)
    raise errors.InvalidInput(
        f"the example's '{item.name}' holds {array.dtype}: the model takes {item.datatype}.",
        hint="Give the example in the model's own datatype.",
    )


def _reference(files: dict[str, bytes]) -> trials.Run:
    """The file run as it is written, with every optimization of the runtime off."""
    runtime: type[runtimes.Runtime] = plugins.load("runtimes", "onnx")
    try:
        model = runtime.load(files, runtimes.Options(optimize=False))
    except errors.CorruptPackage as e:
        raise errors.CaptureFailed(
            e.message, hint="Check it with onnx.checker, or export it again with opset 20."
        ) from None

    def run(inputs: tensor.Tensors) -> tensor.Tensors:
        try:
            return model.run(inputs)
        except errors.InternalError as e:
            raise errors.InvalidInput(e.message) from None

    return run
