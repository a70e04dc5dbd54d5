"""Captures a program of `torch.export` (a `.pt2` file, or a live `ExportedProgram`).

Found through the catalogue, called by `packaging/package.py`: for a file, in the sandboxed child, since reading one may
run what it says. Must never make a size free that the program was exported with as a fixed one.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base, kept
from windlass.types import signature, tensor


class TorchExport:
    """The plugin."""

    name: ClassVar[str] = "torch_export"
    carries_code: ClassVar[bool] = True
    max_batch: ClassVar[int] = 128

    @classmethod
    def accepts(cls, source: Any) -> bool:
        """A path that ends in `.pt2`, or an exported program."""
        if isinstance(source, Path):
            return source.suffix == ".pt2"
        return type(source).__qualname__ == "ExportedProgram" and type(source).__module__.startswith("torch.")

    @classmethod
    def capture(cls, source: Any, options: base.Options) -> draft.Draft:
        """The draft; `CaptureFailed` if the program's batch is fixed or it takes more than plain tensors."""
        # PyTorch takes seconds to import; whether a source is ours is asked far more often than it is.
        import torch

        from windlass.packaging.capture import torch_onnx, torch_original

        program, name = source, "ExportedProgram"
        if isinstance(source, Path):
            name = source.name
            with torch_original.quiet():
                try:
                    program = torch.export.load(source)
                except Exception as e:  # noqa: BLE001 - a damaged archive raises many kinds
                    raise errors.CaptureFailed(
                        f"'{name}' is not a program of torch.export: {torch_original.first_line(e)}.",
                        hint="Write it with torch.export.save; a TorchScript file ends in .pt.",
                    ) from None
        names, keywords = _input_names(program)
        example, notes = _example(program, names, options)
        dynamic, dimensions, most = _dimensions(program, names, options)
        module = program.module(check_guards=False)
        example, fitted = torch_original.fit_floats(module, example)
        limited = msgspec.structs.replace(options, max_batch=min(options.max_batch, most))
        if kept.refuse_others(options, cls.name, name):
            original = torch_original.Original(module, names, keywords)
            written = io.BytesIO()
            torch.export.save(program, written)
            return kept.capture(
                kept.Program(
                    {"model.pt2": written.getvalue()},
                    original.run,
                    example,
                    f"torch {torch.__version__}",
                    name,
                    {i: {a: d for a, d in axes.items() if a or not options.batched} for i, axes in dynamic.items()},
                    keywords=keywords is not None,
                    notes=(*notes, *fitted),
                ),
                limited,
            )
        subject = torch_onnx.Subject(
            module=module,
            example=example,
            source=name,
            keywords=keywords,
            dynamic=dynamic,
            dimensions=dimensions,
            synthetic=not options.example,
            notes=(*notes, *fitted),
        )
        return torch_onnx.capture(subject, limited)


def _input_names(program: Any) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The program's inputs, and the keywords to call it with (None: by position)."""
    names = tuple(program.graph_signature.user_inputs)
    args, kwargs = program.call_spec.in_spec.unflatten(names)
    if tuple(args) + tuple(kwargs.values()) != names or (args and kwargs):
        raise errors.CaptureFailed(
            "the program takes nested or mixed inputs: only tensors, all by position or all by keyword, have names.",
            hint="Wrap the module in one whose forward takes tensors, and export that.",
        )
    return (tuple(kwargs), tuple(kwargs)) if kwargs else (names, None)


def _example(program: Any, names: tuple[str, ...], options: base.Options) -> tuple[tensor.Tensors, tuple[str, ...]]:
    """The user's example, or the one that the program was exported with."""
    if options.example:
        given = dict(options.example)
        if list(given) == [""] and len(names) == 1:
            given = {names[0]: given[""]}
        if sorted(given) != sorted(names):
            raise errors.InvalidInput(f"the example has {', '.join(given)}: the program takes {', '.join(names)}.")
        return {name: given[name] for name in names}, ()
    stored = program.example_inputs
    if not stored:
        raise errors.UsageError("the program holds no example inputs.", hint="Give them with --example.")
    args, kwargs = stored
    arrays = [value.detach().cpu().numpy() for value in (*args, *kwargs.values())]
    return dict(zip(names, arrays, strict=True)), ("the inputs are those that the program was exported with.",)


def _dimensions(
    program: Any, names: tuple[str, ...], options: base.Options
) -> tuple[dict[str, dict[int, str]], dict[str, signature.Dimension], int]:
    """The free axes of each input by name, what each accepts, and the largest batch."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    dynamic: dict[str, dict[int, str]] = {}
    called: dict[str, str] = {}
    dimensions: dict[str, signature.Dimension] = {}
    most = options.max_batch
    for name, placeholder in zip(names, program.graph_signature.user_inputs, strict=True):
        dynamic[name] = {}
        shape = nodes[placeholder].meta["val"].shape
        if options.batched and (not len(shape) or isinstance(shape[0], int)):
            raise errors.CaptureFailed(
                f"the program was exported for one batch size only: input '{name}' is {[str(d) for d in shape]}.",
                hint="Export it with dynamic_shapes={0: torch.export.Dim('batch', min=1)}, or say batched=False.",
            )
        for axis, size in enumerate(shape):
            if isinstance(size, int):
                continue
            is_batch = axis == 0 and options.batched
            own = signature.BATCH if is_batch else options.dynamic.get(name, {}).get(axis, f"{name}_{axis}")
            label = called.setdefault(str(size), own)
            dynamic[name][axis] = label
            least, upper = _range(program, size)
            if is_batch:
                most = min(most, upper or most)
            else:
                dimensions[label] = signature.Dimension(minimum=least, maximum=upper)
    return dynamic, dimensions, most


def _range(program: Any, size: Any) -> tuple[int, int | None]:
    span = next((s for symbol, s in program.range_constraints.items() if str(symbol) == str(size)), None)
    if span is None:
        return 1, None
    # torch reports 2 as the least where it only left 0 and 1 aside; the trials find out about 1.
    least = int(span.lower) if int(span.lower) > 2 else 1
    unbounded = "oo" in str(span.upper)
    return least, None if unbounded else int(span.upper)
