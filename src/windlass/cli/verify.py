"""`windlass verify`: every byte against its digest, and the golden outputs against a run.

Must never mend: what is wrong is said, and a version that is wrong goes into quarantine.
"""

from __future__ import annotations

from pathlib import Path

import click

from windlass import errors, references
from windlass.cli import output, planes
from windlass.packaging import archive, probation
from windlass.packaging import verify as verification
from windlass.registry import registry as registries
from windlass.types import evidence, refs


@click.command()
@click.argument("reference", metavar="REF")
@click.pass_obj
def verify(context: output.Context, reference: str) -> None:
    """Check the version or package REF: bytes, structure, and that it computes its golden outputs here."""
    ref = refs.parse(reference)
    if ref.kind == "path":
        found = _check(context, archive.open_path(Path(ref.path)))
    elif planes.far(context):
        context.say("the control plane checks it")
        with planes.registry(context) as registry:
            found = planes.checked(registry, ref)
    else:
        with planes.registry(context) as registry:
            digest = registry.resolve(ref).digest
            found = _stored(context, registry, digest)
            registry.add_evidence(found, actor=references.actor())
            if found.verdict == "failed":
                registry.quarantine(digest, _why(found), actor=references.actor())
    if found.verdict == "failed":
        kept = "do not use it" if ref.kind == "path" else "it is in quarantine"
        raise errors.GateRefused(
            f"{reference} failed: {_why(found)}; {kept}.",
            hint="Package or import it again, or see what else there is: windlass models list",
        )
    seen = found.statistics.get("sample")
    computed = (
        "its bytes, its structure and its golden outputs are as registered"
        if seen is None
        else f"its bytes and its structure are as registered; made on another processor, here {seen['words']}"
    )
    context.result(found, f"{reference} is whole: {computed}")


def _why(found: evidence.Evidence) -> str:
    return str(found.statistics.get("reason", "it failed verification")).rstrip(".")


def _stored(context: output.Context, registry: registries.Registry, digest: str) -> evidence.Evidence:
    """Bytes that are not what they should be are a verdict here, not a failure of the command."""
    try:
        return _check(context, archive.open_store(registry.store, digest))
    except errors.CorruptPackage as e:
        return evidence.Evidence(digest, "verify", "failed", {"check": "bytes", "reason": e.message})


def _check(context: output.Context, package: archive.Package) -> evidence.Evidence:
    context.say("loading it in a confined process first")
    found = probation.run(package)
    return verification.verify(package) if found.verdict == "passed" else found
