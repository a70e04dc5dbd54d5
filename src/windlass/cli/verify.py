"""`windlass verify`: every byte against its digest, and the golden outputs against a run.

Must never mend: what is wrong is said, and a version that is wrong goes into quarantine.
"""

from __future__ import annotations

import click

from windlass import errors, references
from windlass.cli import inspect, output
from windlass.packaging import probation
from windlass.packaging import verify as verification
from windlass.types import refs


@click.command()
@click.argument("reference", metavar="REF")
@click.pass_obj
def verify(context: output.Context, reference: str) -> None:
    """Check the version or package REF: bytes, structure, and that it computes its golden outputs here."""
    in_registry = refs.parse(reference).kind != "path"
    package = inspect.open_package(context, reference)
    context.say("loading it in a confined process first")
    found = probation.run(package)
    if found.verdict == "passed":
        found = verification.verify(package)
    if in_registry:
        registry = references.open_registry(context.settings)
        try:
            registry.add_evidence(found, actor=references.actor())
            if found.verdict == "failed":
                registry.quarantine(package.digest, str(found.statistics.get("reason", "it failed verification")))
        finally:
            registry.close()
    if found.verdict == "failed":
        raise errors.GateRefused(f"{reference} failed: {found.statistics.get('reason', 'see the evidence')}.")
    context.result(found, f"{reference} is whole: its bytes, its structure and its golden outputs are as registered")
