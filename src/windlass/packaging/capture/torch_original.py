"""The original PyTorch model, made ready to be asked: a copy in eval mode on the CPU, called with named numpy arrays.

Used by the PyTorch capture sources for trials and as what is exported. Must never change the user's own module.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import sysconfig
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from windlass import errors
from windlass.types import tensor

_OURS = str(Path(__file__).parent)
# Frames and warnings from these folders are not the user's.
_INSTALLED = tuple({sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")})


class Named(torch.nn.Module):  # type: ignore[misc]
    """A module whose inputs are tensors in a fixed order and whose outputs are a flat tuple with names.

    `keywords` are the parameters of `forward` in the order of the inputs; None calls it by position.
    """

    def __init__(self, module: torch.nn.Module, keywords: Sequence[str] | None) -> None:
        super().__init__()
        self.module = module
        self._keywords = tuple(keywords) if keywords is not None else None

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.named(*tensors).values())

    def named(self, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs by name: a mapping's keys, `output` for a single tensor, `output_0`... for a sequence."""
        if self._keywords is None:
            answer = self.module(*tensors)
        else:
            answer = self.module(**dict(zip(self._keywords, tensors, strict=True)))
        found = dict(_flatten(answer, ""))
        return {name or "output": value for name, value in found.items()}


class Original:
    """Runs a module on numpy arrays. `names` are the public names of its inputs, in order."""

    def __init__(self, module: torch.nn.Module, names: Sequence[str], keywords: Sequence[str] | None) -> None:
        self.module = Named(module, keywords)
        self.names = tuple(names)

    def tensors(self, inputs: tensor.Tensors) -> tuple[torch.Tensor, ...]:
        """The inputs in order; `InvalidInput` for what PyTorch has no tensor for."""
        for name in self.names:
            if inputs[name].dtype.kind not in "fiub":
                raise errors.InvalidInput(f"input '{name}' holds {inputs[name].dtype}: a PyTorch model takes numbers.")
        return tuple(torch.from_numpy(np.array(inputs[name])) for name in self.names)

    def run(self, inputs: tensor.Tensors) -> tensor.Tensors:
        """The outputs by name; `InvalidInput` with the line of the module if it refuses the inputs."""
        with torch.inference_mode(), quiet(), one_thread():
            try:
                answer = self.module.named(*self.tensors(inputs))
            except errors.WindlassError:
                raise
            except Exception as e:  # noqa: BLE001 - a user's module may raise anything
                shapes = ", ".join(f"{n} {list(inputs[n].shape)} {inputs[n].dtype}" for n in self.names)
                raise errors.InvalidInput(f"the model fails on {shapes}: {first_line(e)}{where(e)}.") from None
            return {name: value.numpy().copy() for name, value in answer.items()}


def ready(module: torch.nn.Module) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """A copy in eval mode on the CPU, in at least single precision, that shares weights where it can; and notes."""
    weights = [*module.parameters(), *module.buffers()]
    half = {w.dtype for w in weights} & {torch.float16, torch.bfloat16}
    as_is = not half and all(w.device.type == "cpu" for w in weights)
    memo: dict[int, Any] = {id(p): p for p in module.parameters()} if as_is else {}
    notes = []
    try:
        clone = copy.deepcopy(module, memo)
    except Exception as e:  # noqa: BLE001 - a user's module may hold anything
        raise errors.CaptureFailed(
            f"the module cannot be copied: {first_line(e)}.",
            hint="Keep locks, files and the like out of the module: capture works on a copy, and yours stays as it is.",
        ) from None
    clone = clone.cpu()
    if half:
        clone = clone.float()
        notes.append(f"weights in {', '.join(sorted(str(d)[6:] for d in half))} were captured as float32.")
    if module.training:
        notes.append("the module was in train() mode: it was captured in eval() mode.")
    return clone.eval(), tuple(notes)


def call_names(module: torch.nn.Module, example: tensor.Tensors, names: Sequence[str]) -> tuple[str, ...] | None:
    """The parameters of `forward` that the example's arrays go to; None to call by position.

    `names` are the user's own, in order; otherwise the example's names are taken as parameters if they all are.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not names and list(example) != [""] and (open_ended or all(name in plain for name in example)):
        return tuple(example)
    return None


def input_names(module: torch.nn.Module, count: int) -> tuple[str, ...]:
    """The names of the first `count` parameters of `forward`, or `input_0`... where it does not name them."""
    parameters = inspect.signature(module.forward).parameters.values()
    plain = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(plain) >= count:
        return tuple(plain[:count])
    return ("input",) if count == 1 else tuple(f"input_{index}" for index in range(count))


def named(
    module: torch.nn.Module, example: tensor.Tensors, names: Sequence[str], keywords: Sequence[str] | None
) -> tensor.Tensors:
    """The example under the inputs' public names, in order; `UsageError` if the names are not as many."""
    if names and len(names) != len(example):
        raise errors.UsageError(f"{len(names)} input names were given: the example has {len(example)} inputs.")
    if keywords is not None:
        return dict(example)
    if not names:
        names = input_names(module, len(example)) if list(example) == [""] else tuple(example)
    return dict(zip(names, example.values(), strict=True))


def fit_floats(module: torch.nn.Module, example: tensor.Tensors) -> tuple[tensor.Tensors, tuple[str, ...]]:
    """The example with floats in the module's own precision (numpy makes float64 where PyTorch has float32)."""
    floats = [p.dtype for p in module.parameters() if p.dtype.is_floating_point]
    wanted = np.dtype(np.float64 if floats and floats[0] == torch.float64 else np.float32)
    made, notes = {}, []
    for name, array in example.items():
        made[name] = array
        if array.dtype.kind == "f" and array.dtype != wanted:
            made[name] = array.astype(wanted)
            notes.append(f"input '{name}' was given as {array.dtype} and is taken as {wanted}.")
    return made, tuple(notes)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute on one thread, so that what is recorded does not depend on how many cores a machine has.

    Small runs also end sooner so: on a machine that has other work, threads that wait for each other spin.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def quiet() -> Iterator[list[str]]:
    """Keep warnings, logs and prints of the libraries off the terminal; yields the warnings of the user's own files."""
    theirs: list[str] = []
    before = logging.root.manager.disable
    sink = io.StringIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logging.disable(logging.CRITICAL)
        try:
            with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
                yield theirs
        finally:
            logging.disable(before)
            for item in caught:
                line = f"{Path(item.filename).name}:{item.lineno}: {first_line(item.message)}"
                if is_theirs(item.filename) and line not in theirs:
                    theirs.append(line)


def first_line(error: BaseException | str) -> str:
    """The first line of an error that says something, without a closing dot, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")


def where(error: BaseException) -> str:
    """` (at file:line: code)` of the user's module, if the traceback passes through it."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_theirs(frame.filename):
            return f" (at {frame.filename}:{frame.lineno}: {frame.line})"
    return ""


def is_theirs(filename: str) -> bool:
    """Whether a source file is the user's own, and neither a library's nor ours."""
    return not filename.startswith((*_INSTALLED, _OURS, "<"))


def _flatten(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{name}_{key}" if name else str(key))
    elif isinstance(value, (tuple, list)):
        fields = getattr(value, "_fields", range(len(value)))
        for key, item in zip(fields, value, strict=True):
            yield from _flatten(item, f"{name or 'output'}_{key}" if isinstance(key, int) else str(key))
    elif value is not None:
        raise errors.CaptureFailed(
            f"the model answers with a {type(value).__name__} ('{name or 'output'}'), which is not a tensor.",
            hint="Return tensors: one, a tuple, or a dict.",
        )
