"""A package from a draft: the model's bytes made canonical, golden outputs, and the manifest.

Called by `package.py` when a draft has passed parity. The bytes are a function of the draft and of what this machine's
runtime answers for the golden inputs (with a sample also of its instruction sets): no time, path, host or stack trace
gets in. Must never weaken a tolerance.

Golden outputs are what our runtime gives here and now, not what the framework gave: a later load is then compared with
the same computation, and the whole tolerance is left for what another machine does differently. That they agree with
the framework is checked first, with the same tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from windlass import errors
from windlass.packaging import archive, draft, external_data, golden, onnx_bytes, session, verdicts
from windlass.packaging import manifest as manifests
from windlass.runtimes import base
from windlass.storage import blobs
from windlass.transforms import chain
from windlass.types import manifest, tensor, tensor_codec

GOLDEN_BYTES = 1 << 20
GOLDEN_ROWS = 8
Buffer: TypeAlias = bytes | memoryview


class _Blobs:
    """Bytes by digest, gathered for one package."""

    def __init__(self) -> None:
        self.data: dict[str, Buffer] = {}

    def add(self, data: Buffer) -> manifest.BlobRef:
        ref = manifest.BlobRef(blobs.digest_of(data), memoryview(data).nbytes)
        self.data[ref.digest] = data
        return ref

    def add_all(self, files: Mapping[str, Buffer]) -> dict[str, manifest.BlobRef]:
        return {name: self.add(files[name]) for name in sorted(files)}


def build(
    source: draft.Draft,
    *,
    name: str,
    card: manifest.Card = manifest.Card(),  # noqa: B008 - frozen
    limits: manifest.Limits | None = None,
) -> archive.Package:
    """The package of a draft, in memory.

    `GateRefused` if the runtime does not reproduce the framework on the golden inputs; `CorruptPackage` or
    `Unsupported` if the model's file breaks a rule that every reader would refuse it for.
    """
    files: Mapping[str, Buffer] = source.files
    contents = external_data.Contents(0, 0, ())
    if source.runtime == "onnx":
        external_data.check(files)
        files = onnx_bytes.canonical(files)
        contents = external_data.check(files, packaged=True)
    inputs, outputs = _golden(source, files)
    # Read off the loaded transforms, so that versions can be compared by what people send without loading either.
    loaded = [session.load_transform(t.kind, t.parameters, t.files) for t in source.transforms]
    people_send, media = chain.Chain(loaded).declared()
    gathered = _Blobs()
    value = manifest.Manifest(
        name=name,
        kind="model",
        signature=source.signature,
        model=manifest.ModelSpec(
            runtime=source.runtime,
            blobs=gathered.add_all(files),
            ir_version=contents.ir_version,
            opset=contents.opset,
            precision=source.precision,
            needs_isa=source.needs_isa,
        ),
        golden=manifest.Golden(
            inputs=gathered.add(tensor_codec.pack(inputs)),
            outputs=gathered.add(tensor_codec.pack(outputs)),
            rtol=source.rtol,
            atol=source.atol,
        ),
        transforms=tuple(
            manifest.TransformSpec(kind=t.kind, parameters=dict(t.parameters), blobs=gathered.add_all(t.files))
            for t in source.transforms
        ),
        fields=people_send,
        media=media,
        labels=source.labels,
        limits=limits or manifest.Limits(max_batch=source.max_batch),
        card=card,
        lineage=source.lineage,
        sample=_sample(source.sample, gathered),
    )
    # Read back as anyone will: what we would refuse from others is refused here.
    value = manifests.decode(manifests.encode(value))
    return archive.in_memory(value, gathered.data)


def _sample(drawn: draft.Sample | None, gathered: _Blobs) -> manifest.Sample | None:
    if drawn is None:
        return None
    return manifest.Sample(
        inputs=gathered.add(tensor_codec.pack(drawn.inputs)),
        answers=gathered.add(tensor_codec.pack(drawn.answers)),
        measure=drawn.measure,
        least=drawn.least,
        isa=verdicts.isa(),
    )


def _golden(source: draft.Draft, files: Mapping[str, Buffer]) -> tuple[tensor.Tensors, tensor.Tensors]:
    """The golden inputs of a draft, and what its runtime gives for them."""
    chosen = choose(source)
    model = session.load_model(source.runtime, files, base.Options())
    try:
        outputs = model.run(chosen.inputs, [spec.name for spec in source.signature.outputs])
    finally:
        model.unload()
    # As parity takes it: the few rows that are kept may all be small ones.
    scale = golden.usual_scale(trial.outputs for trial in source.trials)
    worst = golden.worst(outputs, chosen.outputs, source.rtol, source.atol, scale)
    if not worst.excess <= 1:
        raise errors.GateRefused(
            f"The exported model does not reproduce the original on '{chosen.name}': "
            f"the output '{worst.output}' {worst.detail}.",
            hint="Nothing was packaged. See the parity report for the inputs that differ.",
        )
    return chosen.inputs, outputs


def choose(source: draft.Draft) -> draft.Trial:
    """The trial to keep as golden, cut to few rows: the first that is small (real rows come first), or the smallest."""
    if not source.trials:
        raise errors.GateRefused("The model was captured without a single trial run, so nothing can vouch for it.")
    trials = [_first_rows(trial) if source.signature.batched else trial for trial in source.trials]
    small = [trial for trial in trials if _size(trial) <= GOLDEN_BYTES]
    return small[0] if small else min(trials, key=_size)


def _first_rows(trial: draft.Trial) -> draft.Trial:
    """At most the first few rows: enough to notice another computation, small enough to run at every load."""
    return draft.Trial(
        name=trial.name,
        inputs={name: array[:GOLDEN_ROWS] for name, array in trial.inputs.items()},
        outputs={name: array[:GOLDEN_ROWS] for name, array in trial.outputs.items()},
    )


def _size(trial: draft.Trial) -> int:
    return sum(len(tensor_codec.to_raw(array)) for array in [*trial.inputs.values(), *trial.outputs.values()])
