"""Captures a live `torch.nn.Module`, with an example of what it takes.

Found through the catalogue, called by `packaging/package.py`. Must never change the user's module.
"""

from __future__ import annotations

from typing import Any, ClassVar

from windlass import errors
from windlass.packaging import draft
from windlass.packaging.capture import base


class TorchModule:
    """The plugin."""

    name: ClassVar[str] = "torch_module"
    carries_code: ClassVar[bool] = False
    max_batch: ClassVar[int] = 128

    @classmethod
    def accepts(cls, source: Any) -> bool:
        """A module, but not a scripted one."""
        bases = {f"{c.__module__}.{c.__qualname__}" for c in type(source).__mro__}
        return "torch.nn.modules.module.Module" in bases and "torch.jit._script.ScriptModule" not in bases

    @classmethod
    def capture(cls, source: Any, options: base.Options) -> draft.Draft:
        """The draft; `UsageError` without an example, since a module does not say what it takes."""
        if not options.example:
            raise errors.UsageError(
                "a PyTorch module does not say what it takes: an example is needed.",
                hint="Give example inputs (example=array or {name: array}; --example file.npz).",
            )
        # PyTorch takes seconds to import; whether a source is ours is asked far more often than it is.
        from windlass.packaging.capture import torch_onnx, torch_original

        module, notes = torch_original.ready(source)
        fresh, _ = torch_original.ready(source)
        keywords = torch_original.call_names(module, options.example, options.input_names)
        example = torch_original.named(module, options.example, options.input_names, keywords)
        example, fitted = torch_original.fit_floats(module, example)
        subject = torch_onnx.Subject(
            module=module,
            example=example,
            source=f"{type(source).__module__}.{type(source).__qualname__}",
            keywords=keywords,
            fresh=fresh,
            notes=(*notes, *fitted),
        )
        return torch_onnx.capture(subject, options)
