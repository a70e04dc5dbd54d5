"""Captures TorchScript (a `.pt` file, or a live scripted or traced module).

Found through the catalogue, called by `packaging/package.py`: for a file, in the sandboxed child, since TorchScript is
a program. Must never read a checkpoint that is a pickle: only what `torch.jit.save` wrote.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base, kept


class TorchScript:
    """The plugin."""

    name: ClassVar[str] = "torchscript"
    carries_code: ClassVar[bool] = True
    max_batch: ClassVar[int] = 128

    @classmethod
    def accepts(cls, source: Any) -> bool:
        """A path that ends in `.pt` or `.ts`, or a scripted module."""
        if isinstance(source, Path):
            return source.suffix in (".pt", ".ts")
        return "torch.jit._script.ScriptModule" in {f"{c.__module__}.{c.__qualname__}" for c in type(source).__mro__}

    @classmethod
    def capture(cls, source: Any, options: base.Options) -> draft.Draft:
        """The draft; `UsageError` without an example, since TorchScript does not say what it takes."""
        if not options.example:
            raise errors.UsageError(
                "a TorchScript module does not say what shapes it takes: an example is needed.",
                hint="Give example inputs (example=array or {name: array}; --example file.npz).",
            )
        # PyTorch takes seconds to import; whether a source is ours is asked far more often than it is.
        import torch
        from torch._export import converter

        from windlass.packaging.capture import torch_onnx, torch_original

        with torch_original.quiet():
            module, fresh = _open(torch, source), _open(torch, source)
        trained = module.training
        module, fresh = module.eval(), fresh.eval()
        declared = [argument.name for argument in module.forward.schema.arguments[1:]]
        example, fitted = torch_original.fit_floats(module, _named(declared, options))
        original = torch_original.Original(module, tuple(example), None)
        original.run(example)
        name = source.name if isinstance(source, Path) else module.original_name
        if kept.refuse_others(options, cls.name, name):
            written = io.BytesIO()
            torch.jit.save(module, written)
            files, framework = {"model.pt": written.getvalue()}, f"torch {torch.__version__}"
            program = kept.Program(files, original.run, example, framework, name, options.dynamic, notes=fitted)
            return kept.capture(program, options)
        with torch_original.quiet():
            try:
                converted = converter.TS2EPConverter(module, original.tensors(example)).convert()
            except Exception as e:  # noqa: BLE001 - the converter raises many kinds
                raise errors.CaptureFailed(
                    f"the TorchScript cannot be converted: {torch_original.first_line(e)}.",
                    hint="Package the nn.Module it was made from, or its ONNX export.",
                ) from None
        subject = torch_onnx.Subject(
            module=module,
            example=example,
            source=name,
            fresh=fresh,
            program=converted.module(check_guards=False),
            notes=(*(("the module was in train() mode: it was captured in eval() mode.",) if trained else ()), *fitted),
        )
        return torch_onnx.capture(subject, options)


def _open(torch: Any, source: Any) -> Any:
    """A copy of its own on the CPU; `CaptureFailed` for a file that is no TorchScript."""
    if not isinstance(source, Path):
        written = io.BytesIO()
        torch.jit.save(source, written)
        written.seek(0)
        return torch.jit.load(written, map_location="cpu")
    try:
        return torch.jit.load(str(source), map_location="cpu")
    except Exception as e:  # noqa: BLE001 - a damaged archive raises many kinds
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:200]
        raise errors.CaptureFailed(
            f"'{source.name}' is not TorchScript: {reason}.",
            hint="A checkpoint (state_dict, torch.save) is no model: load it into its nn.Module and package that.",
        ) from None


def _named(declared: list[str], options: base.Options) -> dict[str, Any]:
    """The example in the order of `forward`, under the user's names or the declared ones."""
    given = dict(options.example or {})
    if list(given) == [""]:
        given = {declared[0]: given[""]} if declared else {}
    if any(name not in declared for name in given) or list(given) != declared[: len(given)]:
        if sorted(given) != sorted(declared[: len(given)]):
            raise errors.InvalidInput(f"the example has {', '.join(given)}: forward takes {', '.join(declared)}.")
        given = {name: given[name] for name in declared[: len(given)]}
    if options.input_names and len(options.input_names) != len(given):
        raise errors.UsageError(f"{len(options.input_names)} input names were given: there are {len(given)} inputs.")
    return dict(zip(options.input_names or given, given.values(), strict=True))
