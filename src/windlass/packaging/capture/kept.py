"""A program packaged as it is, to be run by its own framework in a confined process: for what no graph format can say.

Called by capture sources when the user asks for another runtime than ONNX by name. Must never be what a capture falls
back to: a package that carries code is a decision.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base, labels, trials
from windlass.runtimes import declared
from windlass.types import manifest, signature, strict_json, tensor


class Program(msgspec.Struct, frozen=True):
    """What is kept: files by name, how to run them here, and a real example named and ordered as the inputs.

    `dynamic` names the free axes of each input beside the batch; `keywords` and `entry` as in `declared.Tensors`.
    """

    files: Mapping[str, bytes]
    run: trials.Run
    example: tensor.Tensors
    framework: str
    source: str
    dynamic: Mapping[str, Mapping[int, str]] = {}
    keywords: bool = False
    entry: str = ""
    notes: tuple[str, ...] = ()


def refuse_others(options: base.Options, own: str, source: str) -> bool:
    """Whether the program is to be kept as it is; `UsageError` for a runtime that this source has nothing for."""
    if options.runtime not in ("onnx", own):
        raise errors.UsageError(
            f"'{source}' cannot be packaged for the runtime '{options.runtime}'.", hint=f"Known are onnx and {own}."
        )
    return options.runtime == own


def capture(program: Program, options: base.Options) -> draft.Draft:
    """The draft, its trials answered by the program itself; `CaptureFailed` if its axis 0 is not the batch."""
    example = _two_rows(program.example) if options.batched else dict(program.example)
    spec = _signature(program, example, batched=options.batched)
    recorded = trials.record(program.run, spec, example, max_batch=options.max_batch, seed=options.seed)
    transforms, decided = labels.transforms(options, recorded.signature, recorded.trials)
    tensors = declared.Tensors(
        recorded.signature.inputs, recorded.signature.outputs, keywords=program.keywords, entry=program.entry
    )
    return draft.Draft(
        files={**program.files, declared.FILE: strict_json.canonical(tensors)},
        signature=recorded.signature,
        trials=recorded.trials,
        framework=program.framework,
        runtime=options.runtime,
        transforms=transforms,
        labels=options.labels,
        max_batch=recorded.max_batch,
        lineage=manifest.Lineage(framework=program.framework, source=program.source),
        notes=(
            *program.notes,
            *recorded.notes,
            *decided,
            "the package carries code: it is signed by this home, and runs in a confined process only.",
        ),
    )


def _two_rows(example: tensor.Tensors) -> tensor.Tensors:
    """Two rows at least: what a batch of one gives says nothing of which axis is the batch."""
    return {n: np.repeat(a, 2, axis=0) if a.ndim and len(a) == 1 else a for n, a in example.items()}


def _signature(program: Program, example: tensor.Tensors, *, batched: bool) -> signature.Signature:
    """The names and shapes, by running the program with each free dimension one larger."""
    axes = {name: dict(program.dynamic.get(name, {})) for name in example}
    if batched:
        for name in example:
            axes[name][0] = signature.BATCH
    outputs = program.run(example)
    shapes: dict[str, list[int | str]] = {name: list(array.shape) for name, array in outputs.items()}
    for dimension in sorted({d for named in axes.values() for d in named.values()}):
        grown = {name: _grown(array, axes[name], dimension) for name, array in example.items()}
        for name, array in program.run(grown).items():
            for axis, (before, after) in enumerate(zip(outputs[name].shape, array.shape, strict=True)):
                if before != after:
                    shapes[name][axis] = dimension
    for name, shape in shapes.items():
        if batched and (not shape or shape[0] != signature.BATCH):
            raise errors.CaptureFailed(
                f"output '{name}' has the shape {shape}: axis 0 is not the batch.",
                hint="Return one entry a row, or capture it as a model that does not batch (batched=False).",
            )
    return signature.Signature(
        inputs=tuple(
            signature.TensorSpec(
                name, tensor.datatype(array), tuple(axes[name].get(axis, n) for axis, n in enumerate(array.shape))
            )
            for name, array in example.items()
        ),
        outputs=tuple(
            signature.TensorSpec(name, tensor.datatype(array), tuple(shapes[name])) for name, array in outputs.items()
        ),
    )


def _grown(array: tensor.Array, axes: Mapping[int, str], dimension: str) -> tensor.Array:
    for axis, name in axes.items():
        if name == dimension:
            array = np.concatenate([array, np.take(array, [0], axis=axis)], axis=axis)
    return array
