"""A PyTorch module to a draft: checked, exported by torch.export and torch.onnx (dynamo), tried at every size.

Called by the PyTorch capture sources once each has a module and an example. There is one export path: a model that
does not pass it is refused with the reason. Must never change the user's module or print what the libraries say.
"""

from __future__ import annotations

import contextlib
import re
import traceback
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import torch

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base, labels, onnx_graph, torch_original, trials
from windlass.types import manifest, signature, tensor

_FEWEST_ROWS = 2


class Subject(msgspec.Struct, frozen=True):
    """What is captured: a module in eval mode, the example it runs on, and what its source knows of it.

    `example` is named and ordered as the inputs; `keywords` as in `torch_original.Named`. `dimensions` says more of
    the dynamic axes in `dynamic` (input -> {axis: name}, without the batch). `fresh` is an untouched copy.
    `program` is what torch.export can read of it, where that is not the module itself. `edges` are edge cases
    of its own.
    """

    module: torch.nn.Module
    example: tensor.Tensors
    source: str
    keywords: tuple[str, ...] | None = None
    dynamic: dict[str, dict[int, str]] = {}
    dimensions: dict[str, signature.Dimension] = {}
    fresh: torch.nn.Module | None = None
    program: torch.nn.Module | None = None
    edges: dict[str, tensor.Tensors] = {}
    synthetic: bool = False
    notes: tuple[str, ...] = ()


def capture(subject: Subject, options: base.Options) -> draft.Draft:
    """The draft of a module; `CaptureFailed` with the operator and the line where torch tells them."""
    example = _checked(subject.example, options)
    original = torch_original.Original(subject.module, tuple(example), subject.keywords)
    few = {n: a[: max(_FEWEST_ROWS, options.max_batch)] for n, a in example.items()} if options.batched else example
    _require_stateless(subject, original, few)
    outputs = original.run(few)
    names = options.output_names or tuple(outputs)
    if len(names) != len(outputs):
        raise errors.UsageError(f"{len(names)} output names were given: the model has {len(outputs)} outputs.")
    dynamic = _dynamic(subject, options)
    readable = original
    if subject.program is not None:
        readable = torch_original.Original(subject.program, original.names, subject.keywords)
    program, model, warned = export(readable, few, dynamic=dynamic, max_batch=options.max_batch)
    renamed = _dimension_names(program, tuple(example), dynamic)
    onnx_graph.rename_dimensions(model, renamed)
    onnx_graph.rename(model, tuple(example), names)
    dimensions = _ranges(program, renamed, subject.dimensions)
    spec = signature.Signature(onnx_graph.specs(model.graph.inputs), onnx_graph.specs(model.graph.outputs), dimensions)
    _require_free(spec, dynamic)
    if options.batched and not spec.batched:
        raise _without_batch(spec)

    def run(inputs: tensor.Tensors) -> tensor.Tensors:
        return dict(zip(names, original.run(inputs).values(), strict=True))

    recorded = trials.record(run, spec, example, max_batch=options.max_batch, seed=options.seed, edges=subject.edges)
    transforms, decided = labels.transforms(options, spec, recorded.trials)
    framework = f"torch {torch.__version__}"
    return draft.Draft(
        files=onnx_graph.files(model),
        signature=recorded.signature,
        trials=recorded.trials,
        framework=framework,
        transforms=transforms,
        labels=options.labels,
        max_batch=recorded.max_batch,
        synthetic=subject.synthetic,
        lineage=manifest.Lineage(framework=framework, source=subject.source),
        notes=(*subject.notes, *warned, *recorded.notes, *decided),
    )


def export(
    original: torch_original.Original,
    example: tensor.Tensors,
    *,
    dynamic: dict[str, dict[int, str]],
    max_batch: int,
) -> tuple[Any, ir.Model, tuple[str, ...]]:
    """The exported program, its ONNX graph (opset 20, IR 10), and the warnings that name the user's own lines."""
    with torch_original.quiet() as warned, torch.no_grad():
        program = exported(original, example, dynamic=dynamic, max_batch=max_batch)
        try:
            made = torch.onnx.export(program, (), dynamo=True, opset_version=onnx_graph.OPSET, verbose=False)
        except Exception as e:  # noqa: BLE001 - the exporter raises many kinds
            raise _not_converted(e, program) from None
    if made is None:
        raise errors.CaptureFailed("the exporter gave no ONNX model.")
    made.model.ir_version = onnx_graph.IR_VERSION
    return program, made.model, tuple(f"warning from {line}" for line in warned)


def exported(
    original: torch_original.Original,
    example: tensor.Tensors,
    *,
    dynamic: dict[str, dict[int, str]],
    max_batch: int,
) -> Any:
    """The program of torch.export, its inputs by position in the order of `original.names`, its outputs a flat tuple.

    `dynamic` names the free axes of each input; `CaptureFailed` with the line where torch tells it.
    """
    shapes: list[dict[int, Any]] = []
    most = max(max_batch, _FEWEST_ROWS)
    for name in original.names:
        axes = dynamic.get(name, {})
        shapes.append(
            {
                axis: torch.export.Dim(d, min=1, max=most) if d == signature.BATCH else torch.export.Dim.DYNAMIC
                for axis, d in axes.items()
            }
        )
    try:
        return torch.export.export(
            original.module, original.tensors(example), dynamic_shapes={"tensors": tuple(shapes)}, strict=False
        )
    except errors.WindlassError:
        raise
    except Exception as e:  # noqa: BLE001 - torch.export raises many kinds
        raise _not_exported(e, original.names, dynamic) from None


def _checked(example: tensor.Tensors, options: base.Options) -> tensor.Tensors:
    """The example with two rows at least (a batch of one is burned in), its rows counted the same everywhere."""
    if not options.batched:
        return dict(example)
    rows = {name: (array.shape[0] if array.ndim else 0) for name, array in example.items()}
    if len(set(rows.values())) != 1 or 0 in rows.values():
        raise errors.InvalidInput(
            f"the example's inputs have {', '.join(f'{n}: {r}' for n, r in rows.items())} rows along axis 0: "
            "they must have the same number, and at least one.",
            hint="Axis 0 is the batch; for a model without one, say batched=False.",
        )
    if next(iter(rows.values())) >= _FEWEST_ROWS:
        return dict(example)
    return {name: np.repeat(array, _FEWEST_ROWS, axis=0) for name, array in example.items()}


def _dynamic(subject: Subject, options: base.Options) -> dict[str, dict[int, str]]:
    unknown = [name for name in options.dynamic if name not in subject.example]
    if unknown:
        raise errors.UsageError(f"'{unknown[0]}' is no input of the model: {', '.join(subject.example)} are.")
    made = {name: {**subject.dynamic.get(name, {}), **options.dynamic.get(name, {})} for name in subject.example}
    if options.batched:
        made = {name: {0: signature.BATCH, **axes} for name, axes in made.items()}
    return made


def _require_stateless(subject: Subject, original: torch_original.Original, example: tensor.Tensors) -> None:
    """A second set of arguments, asked of a copy that never saw the first: what a run keeps would be frozen."""
    if subject.fresh is None:
        return
    other = {n: np.ascontiguousarray(a[::-1]) * (2 if a.dtype.kind == "f" else 1) for n, a in example.items() if a.ndim}
    other = {**example, **other}
    trials.require_repeatable(original.run, example)
    used = original.run(other)
    unused = torch_original.Original(subject.fresh, original.names, subject.keywords).run(other)
    for name, array in unused.items():
        if not np.array_equal(array, used[name], equal_nan=array.dtype.kind == "f"):
            raise errors.CaptureFailed(
                f"the answer (output '{name}') depends on what the model was asked before: "
                "the first values it saw would be frozen into the graph.",
                hint="The forward pass must keep nothing between calls (no cached tensor, no counter).",
            )


def _dimension_names(program: Any, names: tuple[str, ...], dynamic: dict[str, dict[int, str]]) -> dict[str, str]:
    """torch's symbols (`s77`) to the names of the dimensions they are."""
    found: dict[str, str] = {}
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for name, placeholder in zip(names, program.graph_signature.user_inputs, strict=True):
        shape = nodes[placeholder].meta["val"].shape
        for axis, dimension in dynamic.get(name, {}).items():
            if not isinstance(shape[axis], int):
                found.setdefault(str(shape[axis]), dimension)
    return found


def _ranges(
    program: Any, renamed: dict[str, str], known: dict[str, signature.Dimension]
) -> dict[str, signature.Dimension]:
    """What each symbolic dimension accepts: what the source says, within what torch found."""
    found = dict(known)
    for symbol, span in program.range_constraints.items():
        name = renamed.get(str(symbol))
        if name is None or name == signature.BATCH or name in found:
            continue
        # torch takes 0 and 1 as special and reports 2 as the least even where 1 works; the trials find out.
        least = int(span.lower) if int(span.lower) > _FEWEST_ROWS else 1
        most = int(span.upper) if str(span.upper) not in ("int_oo", "oo") and int(span.upper) < 1 << 40 else None
        found[name] = signature.Dimension(minimum=least, maximum=most)
    return found


def _require_free(spec: signature.Signature, dynamic: dict[str, dict[int, str]]) -> None:
    for item in spec.inputs:
        for axis, name in dynamic.get(item.name, {}).items():
            if isinstance(item.shape[axis], int):
                raise errors.CaptureFailed(
                    f"axis {axis} ('{name}') of input '{item.name}' is burned into the graph as {item.shape[axis]}.",
                    hint="Write no size as a number in forward: use x.shape[0], reshape(x.shape[0], -1) or flatten(1).",
                )


def _without_batch(spec: signature.Signature) -> errors.CaptureFailed:
    output = next(o for o in spec.outputs if not o.shape or o.shape[0] != signature.BATCH)
    return errors.CaptureFailed(
        f"output '{output.name}' has the shape {list(output.shape)}: axis 0 is not the batch.",
        hint="Return one entry a row, or capture it as a model that does not batch (batched=False).",
    )


def _not_exported(error: Exception, names: tuple[str, ...], dynamic: dict[str, dict[int, str]]) -> errors.CaptureFailed:
    text = str(error)
    # torch has no name for a dimension that it may bound itself, only a place.
    for index, name in enumerate(names):
        for axis, dimension in dynamic.get(name, {}).items():
            text = text.replace(f"L['tensors'][{index}].size()[{axis}]", dimension)
    line = _called_at(text) or torch_original.where(error)
    burned = re.search(r"You marked (\S+) as dynamic but your code specialized it to be a constant \((\d+)\)", text)
    if burned:
        return errors.CaptureFailed(
            f"the dimension '{burned.group(1)}' is burned into the model as {burned.group(2)}{line}.",
            hint="Write no size as a number in forward: use x.shape[0], reshape(x.shape[0], -1) or flatten(1). "
            "A recurrent layer is written for one length: leave that dimension fixed. "
            "If the model takes one batch size only, say batched=False.",
        )
    if "data-dependent" in text:
        return errors.CaptureFailed(
            f"the model chooses what to do by looking at values, which a graph cannot hold{line}.",
            hint="Write the choice as torch.where(condition, a, b), or as torch.cond.",
        )
    suggested = re.search(r"Suggested fixes:\s*\n(.+?)(?:\n\s*\n|$)", text, re.DOTALL)
    hint = "Replace what is at that line by operations on tensors."
    if suggested:
        hint = f"torch suggests: {'; '.join(part.strip() for part in suggested.group(1).splitlines()[:3])}."
    return errors.CaptureFailed(f"torch.export refuses the model: {torch_original.first_line(error)}{line}.", hint=hint)


def _not_converted(error: Exception, program: Any) -> errors.CaptureFailed:
    text = "".join(traceback.format_exception(error))
    operator = re.search(r"OpOverload\(op='([^']+)'", text)
    node_name = re.search(r"Error when translating node %(\w+)", text)
    line = ""
    if node_name:
        # The exporter names a node of the decomposed program; a program that cannot be decomposed tells no line.
        with torch_original.quiet(), contextlib.suppress(Exception):
            program = program.run_decompositions()
        node = next((n for n in program.graph.nodes if n.name == node_name.group(1)), None)
        line = _called_at(str(node.meta.get("stack_trace", ""))) if node is not None else ""
    name = operator.group(1) if operator else "an operator"
    return errors.CaptureFailed(
        f"{name} has no ONNX form{line}.",
        hint="Write it with operators that have one (matmul, where, gather, ...), or compute it before the model.",
    )


def _called_at(text: str) -> str:
    """The last line of a user's file in a stack trace that torch wrote down as text."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in \w+\n\s*(.+)', text)
    theirs = [frame for frame in frames if torch_original.is_theirs(frame[0])]
    if not theirs:
        return ""
    path, number, code = theirs[-1]
    return f" (at {path}:{number}: {code.strip()})"
