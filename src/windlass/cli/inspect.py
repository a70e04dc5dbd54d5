"""`windlass inspect`: what a package says of itself.

Must never load the model.
"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from windlass.cli import output, planes
from windlass.packaging import archive
from windlass.types import manifest, refs, signature


@click.command()
@click.argument("reference", metavar="REF")
@click.pass_obj
def inspect(context: output.Context, reference: str) -> None:
    """Show the manifest of the version or package REF."""
    package = open_package(context, reference, whole=False)
    context.result(
        {"digest": package.digest, "manifest": msgspec.to_builtins(package.manifest)},
        lambda: _text(package.digest, package.manifest),
    )


def open_package(context: output.Context, reference: str, *, whole: bool = True) -> archive.Package:
    """The package that a reference or a path names. `whole`: its bytes are asked for later, so a far one is fetched."""
    ref = refs.parse(reference)
    if ref.kind == "path":
        return archive.open_path(Path(ref.path))
    with planes.registry(context) as registry:
        found: archive.Package = planes.package(context, registry, registry.resolve(ref).digest)
        if whole and planes.far(context):
            # Nothing can be asked of the control plane once it is let go.
            context.say(f"fetching {reference}")
            every = found.manifest.blobs().values()
            return archive.in_memory(found.manifest, {blob.digest: found.read(blob) for blob in every})
    return found


def _text(digest: str, found: manifest.Manifest) -> str:
    files = [*found.model.blobs.items(), *((n, b) for t in found.transforms for n, b in t.blobs.items())]
    limits = found.limits
    lines = [
        f"{found.name}  {digest}",
        "",
        output.table(["input", "datatype", "shape"], [_row(t) for t in found.signature.inputs]),
        "",
        output.table(["output", "datatype", "shape"], [_row(t) for t in found.signature.outputs]),
        "",
        f"runtime     {found.model.runtime} (IR {found.model.ir_version}, opset {found.model.opset})",
        f"transforms  {', '.join(t.kind for t in found.transforms) or 'none: people send tensors'}",
        f"fields      {', '.join(f'{f.name} ({f.kind})' for f in found.fields) or 'none'}",
        f"labels      {', '.join(found.labels[:8]) + (' ...' if len(found.labels) > 8 else '') or 'none'}",
        f"limits      {limits.max_batch} rows, {limits.max_elements} elements, {limits.max_body} bytes",
        f"golden      within rtol {found.golden.rtol:g} and atol {found.golden.atol:g} of the largest value",
        f"framework   {found.lineage.framework or 'unknown'}",
        "",
        output.table(["file", "bytes", "digest"], [[name, ref.size, ref.digest] for name, ref in files]),
    ]
    if found.card.description:
        lines.insert(1, found.card.description)
    return "\n".join(lines)


def _row(spec: signature.TensorSpec) -> list[str]:
    return [spec.name, spec.datatype, "[" + ", ".join(str(d) for d in spec.shape) + "]"]
