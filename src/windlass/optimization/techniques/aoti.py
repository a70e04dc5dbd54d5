"""Compiles a live network to machine code of this very machine: PyTorch's AOTInductor.

Driven by a study through the catalogue. What it makes carries code, is bound to this machine's instruction sets and to
this version of torch, and is served in a confined process only. Must never compile but what the user named.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import zipfile
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import torch

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization import parameters
from windlass.optimization.techniques import base
from windlass.optimization.training import export
from windlass.packaging import draft, parity
from windlass.packaging.capture import torch_onnx, torch_original, trials
from windlass.runtimes import base as runtimes
from windlass.runtimes import declared, torch_program
from windlass.security import temporary
from windlass.types import strict_json, tensor

# The largest batch that the program takes; nothing is compiled for it.
_MAX_BATCH = 1 << 16
_TRIED = 32
_COMPILER = "g++"
_NEEDED = "a C++ compiler is needed to make machine code of a network, and there is no g++ here."


class Aoti:
    """The plugin (Ansel et al., PyTorch 2, 2024). The bytes are the compiler's: two runs need not give the same."""

    name: ClassVar[str] = "aoti"
    trains: ClassVar[bool] = False
    # Against onnxruntime nothing can be said before it is measured.
    gains: ClassVar[Mapping[str, float]] = {}
    aims: ClassVar[frozenset[str]] = frozenset(("latency",))

    @classmethod
    def dimensions(cls, form: forms.Form) -> tuple[base.Dimension, ...]:
        """Whether weights are folded and laid out for this machine while compiling."""
        return (base.Dimension("freeze", (True, False)),)

    @classmethod
    def refusal(cls, form: forms.Form, materials: base.Materials) -> str:
        """No live network, or no compiler."""
        if form.network is None:
            return "there is no live network behind this form (--model module:factory)."
        return "" if shutil.which(_COMPILER) else _NEEDED

    @classmethod
    def apply(cls, form: forms.Form, given: Mapping[str, Any], materials: base.Materials) -> forms.Form:
        """The form for the runtime `aoti`, tried against the network; it takes half a minute and more.

        `CaptureFailed` if torch cannot export the network, `Unsupported` if it cannot compile it, `GateRefused` if the
        code answers otherwise than the network.
        """
        chosen = parameters.complete(cls, form, given)
        told = cls.refusal(form, materials)
        if told:
            raise errors.Unsupported(told)
        wanted = materials.signature
        network, _ = torch_original.ready(form.network)
        example = export.example(wanted, materials)
        original = torch_original.Original(network, tuple(example), torch_original.call_names(network, example, ()))
        threads = max(1, form.options.threads)
        compiled = _compiled(original, example, chosen["freeze"], threads, materials)
        written = strict_json.canonical(declared.Tensors(wanted.inputs, wanted.outputs))
        made = msgspec.structs.replace(
            form,
            files={"model.pt2": compiled, declared.FILE: written},
            runtime=cls.name,
            precision="fp32",
            steps=(*form.steps, forms.Step(cls.name, chosen)),
            network=None,
            left=(),
            notes=(*form.notes, f"compiled for this machine's instructions, {threads} thread(s): it carries code."),
        )
        _try(made, original, example, materials)
        return made


def _compiled(
    original: torch_original.Original, example: tensor.Tensors, freeze: bool, threads: int, materials: base.Materials
) -> bytes:
    """The package that AOTInductor writes. Whatever it keeps beside it is gone afterwards."""
    # The compiler takes seconds to import, and only compiling needs it.
    import torch._inductor as inductor
    from torch._inductor import utils

    settings = {"compile_threads": 1, "cpp.threads": threads, "freezing": freeze}
    with contextlib.ExitStack() as held:
        held.enter_context(torch_original.quiet())
        held.enter_context(torch_original.one_thread())
        held.enter_context(torch.no_grad())
        folder = held.enter_context(temporary.folder("windlass-compile-"))
        held.enter_context(utils.fresh_cache(dir=str(folder)))
        program = torch_onnx.exported(original, example, dynamic=_free(materials), max_batch=_MAX_BATCH)
        path = folder / "model.pt2"
        try:
            inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
        except Exception as e:  # noqa: BLE001 - a compiler raises many kinds
            raise errors.Unsupported(
                f"AOTInductor cannot compile the network: {torch_original.first_line(e)}.",
                hint="Leave it out (--techniques), or try the network under torch.compile to see more.",
            ) from None
        return _without_sources(path.read_bytes())


def _without_sources(archive: bytes) -> bytes:
    """The archive without the C++ that it was compiled from: nothing loads it, and it names this machine's folders."""
    kept = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as made, zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as written:
        for item in made.infolist():
            if not item.filename.endswith(".cpp"):
                # Without the time of writing.
                written.writestr(zipfile.ZipInfo(item.filename), made.read(item))
    return kept.getvalue()


def _free(materials: base.Materials) -> dict[str, dict[int, str]]:
    """The free dimensions of each input, with the batch."""
    return {
        spec.name: {axis: d for axis, d in enumerate(spec.shape) if isinstance(d, str)}
        for spec in materials.signature.inputs
    }


def _try(
    made: forms.Form, original: torch_original.Original, example: tensor.Tensors, materials: base.Materials
) -> None:
    """Ask the network and the compiled program the same, at every size that matters."""
    names = [spec.name for spec in materials.signature.outputs]

    def run(inputs: tensor.Tensors) -> tensor.Tensors:
        return dict(zip(names, original.run(inputs).values(), strict=True))

    recorded = trials.record(run, materials.signature, example, max_batch=_TRIED, seed=materials.seed)
    drafted = draft.Draft(
        files=made.files,
        signature=recorded.signature,
        trials=recorded.trials,
        framework=f"torch {torch.__version__}",
        runtime=made.runtime,
        max_batch=recorded.max_batch,
    )
    # In this process: it has just made the code from a network that runs here anyway.
    with torch_original.one_thread():
        loaded = torch_program.CompiledRuntime.load(made.files, runtimes.Options())
        try:
            parity.check(loaded, drafted)
        finally:
            loaded.unload()
