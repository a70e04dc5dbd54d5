"""A form made ready to run, as a server would run it.

Opened by measuring, judging, profiling and parity. Must never run code that a form carries in this process, unless
this process made it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import onnxruntime

from windlass import plugins
from windlass.optimization import form as forms
from windlass.packaging import session
from windlass.runtimes import base, onnx
from windlass.types import tensor

Level = Literal["none", "basic", "extended", "all"]
_LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class Runnable(Protocol):
    """A form in memory; from one thread at a time. `inside`: all of a run happens in the thread that asks for it."""

    @property
    def inside(self) -> bool: ...

    def run(self, inputs: tensor.Tensors) -> tensor.Tensors:
        """All outputs by name; `InternalError` if the run fails."""
        ...

    def again(self) -> Runnable:
        """The same, loaded once more, so that it lies elsewhere in memory."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class Loaded:
    """A `Runnable` around a runtime's model."""

    def __init__(self, load: Callable[[], base.LoadedModel], *, inside: bool) -> None:
        self.inside = inside
        self._load = load
        self._model = load()

    def run(self, inputs: tensor.Tensors) -> tensor.Tensors:
        """All outputs by name."""
        return self._model.run(inputs)

    def again(self) -> Loaded:
        """Load it once more."""
        return Loaded(self._load, inside=self.inside)

    def close(self) -> None:
        """Unload it."""
        self._model.unload()


def open(  # noqa: A001 - read as runnable.open
    form: forms.Form, *, threads: int = 1, level: Level | None = None, made_here: bool = False
) -> Loaded:
    """The form, loaded. `level`: onnxruntime's graph optimizations (None: as the form's options say, as served).

    A runtime that carries code runs in a confined process, as it is served; with `made_here`, in this one: only for a
    program that this process compiled itself. `CorruptPackage` or `Unsupported` as the runtime says.
    """
    options = base.Options(threads=threads, optimize=form.options.optimize)
    apart = session.carries_code(form.runtime) and not made_here

    def load() -> base.LoadedModel:
        if form.runtime == "onnx":
            return onnx.OnnxModel(onnx.session(form.files, settings(options, level)))
        if apart:
            return session.load_model(form.runtime, form.files, options)
        model: base.LoadedModel = plugins.load("runtimes", form.runtime).load(form.files, options)
        return model

    return Loaded(load, inside=threads == 1 and not apart)


def settings(options: base.Options, level: Level | None) -> Any:
    """onnxruntime's settings of a session, as a server's but for the level."""
    found = onnx.settings(options)
    if level is not None:
        found.graph_optimization_level = _LEVELS[level]
    return found
