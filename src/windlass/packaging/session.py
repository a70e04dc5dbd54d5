"""A package made ready to run: the one place where transforms meet a runtime.

Used by build, verify, serving workers and `sdk`. Loading checks digests, external data, the signature against the
model, the fields against the transforms, and the golden outputs, in this order. Must never import a capture library,
the registry, or any plugin not asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from windlass import errors, plugins
from windlass.packaging import archive, contained, external_data, golden, samples, verdicts
from windlass.runtimes import base
from windlass.transforms import base as transforms
from windlass.transforms import chain
from windlass.types import contract as contracts
from windlass.types import fields, manifest, signature, tensor, tensor_codec

Where: TypeAlias = Literal["here", "apart", "confined"]
_DEFAULTS = base.Options()


class Session:
    """A loaded package. `run` takes tensors, `predict` a person's columns; from one thread at a time.

    `golden_excess` is the largest golden error over its allowance (at most 1), or None if it was not checked.
    `resemblance` is what the package's sample says, where it was made on other instruction sets: then that decides, and
    `golden_excess` may be above 1.
    """

    def __init__(self, package: archive.Package, model: base.LoadedModel, transformer: chain.Chain) -> None:
        limits = package.manifest.limits
        self.package = package
        self.model = model
        self.transformer = transformer
        self.golden_excess: float | None = None
        self.resemblance: samples.Resemblance | None = None
        self.contract = contracts.Contract(
            package.manifest.signature, max_rows=limits.max_batch, max_elements=limits.max_elements
        )

    def run(self, inputs: tensor.Tensors) -> tensor.Tensors:
        """The model's outputs in the signature's order; `InvalidInput` if the inputs break the contract."""
        self.contract.check(inputs)
        return self.model.run(inputs, self.contract.output_names)

    def predict(self, columns: fields.Columns) -> fields.Columns:
        """Answer columns from a person's columns (or from tensors, where the package has no pre-transforms)."""
        inputs = self.transformer.prepare(columns)
        return self.transformer.finish(self.run(inputs), inputs)

    def close(self) -> None:
        """Give the model's memory back."""
        self.model.unload()


def open(  # noqa: A001 - read as session.open
    package: archive.Package,
    *,
    options: base.Options = _DEFAULTS,
    check_golden: bool = True,
    where: Where = "here",
) -> Session:
    """Load a package. `CorruptPackage` if its bytes are not what it says, `GateRefused` if it computes something else.

    `where` is this process, a confined process of its own (`apart`), or this process because it is `confined` itself.
    `Unsupported` if its runtime may carry code and it would be loaded here, or needs a missing library.
    """
    spec = package.manifest.model
    if where == "here" and carries_code(spec.runtime):
        raise errors.Unsupported(
            f"Models of the runtime '{spec.runtime}' carry code and are not loaded in this process."
        )
    _require_isa(spec.needs_isa)
    files = package.model_files()
    if spec.runtime == "onnx":
        contents = external_data.check(files, packaged=True)
        if (contents.ir_version, contents.opset) != (spec.ir_version, spec.opset):
            raise errors.CorruptPackage(
                f"The model's file is of IR version {contents.ir_version} and opset {contents.opset}: "
                f"the manifest says {spec.ir_version} and {spec.opset}."
            )
    if where == "apart":
        model: base.LoadedModel = contained.load(spec.runtime, files, options)
    else:
        model = plugins.load("runtimes", spec.runtime).load(files, options)
    try:
        check_signature(package.manifest.signature, model)
        session = Session(package, model, _transformer(package))
        if session.transformer.declared() != (package.manifest.fields, package.manifest.media):
            raise errors.CorruptPackage("The fields that the manifest lists are not those that its transforms read.")
        if check_golden:
            session.golden_excess = _golden_excess(session)
            session.resemblance = _resemblance(session)
    except BaseException:
        model.unload()
        raise
    return session


def _require_isa(needed: str) -> None:
    """`Unsupported` where machine code was compiled for instructions that this machine lacks: it would die of them."""
    lacking = verdicts.lacking(needed)
    if lacking:
        raise errors.Unsupported(
            f"The package holds code that was compiled for {', '.join(lacking)}, which this machine does not have.",
            hint="Run it on a machine like the one that it was made on, or optimize the original again here.",
        )


def carries_code(runtime: str) -> bool:
    """Whether models of this runtime are programs, which run in a confined process only."""
    return bool(plugins.load("runtimes", runtime).carries_code)


def load_model(runtime: str, files: base.Files, options: base.Options) -> base.LoadedModel:
    """The bare model: in a confined process where its runtime carries code, else here."""
    if carries_code(runtime):
        return contained.load(runtime, files, options)
    model: base.LoadedModel = plugins.load("runtimes", runtime).load(files, options)
    return model


def check_signature(declared: signature.Signature, model: base.LoadedModel) -> None:
    """`CorruptPackage` unless the model has exactly the tensors that the signature declares."""
    for side, specs, actual in (("input", declared.inputs, model.inputs), ("output", declared.outputs, model.outputs)):
        found = {spec.name: spec for spec in actual}
        if set(found) != {spec.name for spec in specs}:
            raise errors.CorruptPackage(f"The model's {side}s are {sorted(found)}, not what the signature declares.")
        for spec in specs:
            have = found[spec.name]
            fixed = zip(spec.shape, have.shape, strict=False)
            differs = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in fixed)
            if have.datatype != spec.datatype or (side == "input" and len(have.shape) != len(spec.shape)) or differs:
                raise errors.CorruptPackage(
                    f"The model's {side} '{spec.name}' is {have.datatype} {list(have.shape)}: "
                    f"the signature declares {spec.datatype} {list(spec.shape)}."
                )


def _transformer(package: archive.Package) -> chain.Chain:
    specs = package.manifest.transforms
    return chain.Chain([load_transform(s.kind, s.parameters, package.transform_files(s)) for s in specs])


def load_transform(kind: str, parameters: Mapping[str, Any], files: Mapping[str, bytes]) -> transforms.Transform:
    """One transform of a package, or of one that is being built; `CorruptPackage` if its kind refuses it."""
    plugin: type[transforms.TransformKind] = plugins.load("transforms", kind)
    try:
        return plugin.load(parameters, files)
    except errors.InvalidInput as e:
        raise errors.CorruptPackage(f"The transform '{kind}' of the package is refused: {e.message}") from None


def _golden_excess(session: Session) -> float:
    """The largest golden error over its allowance; `GateRefused` if it is above 1, unless a sample is to decide."""
    stored = session.package.manifest.golden
    inputs = tensor_codec.unpack(session.package.read(stored.inputs))
    expected = tensor_codec.unpack(session.package.read(stored.outputs))
    if set(expected) != set(session.contract.output_names):
        raise errors.CorruptPackage("The golden outputs of the package are not its signature's outputs.")
    try:
        outputs = session.run(inputs)
    except errors.InvalidInput as e:
        raise errors.CorruptPackage(f"The golden inputs of the package break its own signature: {e.message}") from None
    worst = golden.worst(outputs, expected, stored.rtol, stored.atol)
    # Numbers may differ by more where other instructions made them; NaN, and what is missing, are no such difference.
    sample = _sample_from_elsewhere(session)
    decidable = sample is not None and (worst.excess < math.inf or expected[worst.output].dtype.kind in "iu")
    if not worst.excess <= 1 and not decidable:
        raise errors.GateRefused(
            f"The package does not compute its golden outputs here: '{worst.output}' {worst.detail}.",
            hint="This machine or runtime computes differently from where it was packaged: package it again here.",
        )
    return worst.excess


def _sample_from_elsewhere(session: Session) -> manifest.Sample | None:
    """The package's sample, where it has one and was made on other instruction sets."""
    sample = session.package.manifest.sample
    return None if sample is None or sample.isa == verdicts.isa() else sample


def _resemblance(session: Session) -> samples.Resemblance | None:
    """What the sample says, if it comes from elsewhere; `GateRefused` unless the package still resembles its parent."""
    sample = _sample_from_elsewhere(session)
    if sample is None:
        return None
    inputs = tensor_codec.unpack(session.package.read(sample.inputs))
    answers = tensor_codec.unpack(session.package.read(sample.answers))
    most = session.contract.max_rows
    excess = session.golden_excess
    found = samples.Resemblance(
        measure=sample.measure,
        value=samples.ask(session.run, inputs, answers, sample.measure, most),
        least=sample.least,
        rows=len(next(iter(answers.values()))),
        made_on=sample.isa,
        here=verdicts.isa(),
        golden_excess=excess if excess is not None and math.isfinite(excess) else None,
    )
    if not found.enough:
        raise errors.GateRefused(
            f"The package answers differently on this processor: {found.words}. It was made on '{found.made_on}', and "
            f"this is '{found.here}': optimize its parent again here, or with a quantization that no processor "
            "saturates (reduce_range, or weights of QUInt8).",
            hint="Until then, use its parent.",
        )
    return found
