"""`windlass models import|export`: packages from files into the registry, and out of it.

Loaded by `cli/models.py` when one of them is used: opening packages needs libraries that its commands do not.
Must never register as ready what was not loaded and checked here.
"""

from __future__ import annotations

from pathlib import Path

import click

from windlass import errors, references
from windlass.cli import output, planes
from windlass.packaging import archive, probation, session
from windlass.types import evidence, refs


@click.command("import")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--name", help="The model's name here; its own by default.")
@click.option("--description", default="", help="A sentence about this version.")
@click.option("--no-verify", is_flag=True, help="Do not load it now: the version stays NEW until it was verified.")
@click.pass_obj
def import_(context: output.Context, path: Path, name: str | None, description: str, no_verify: bool) -> None:
    """Register the package in the file or folder PATH, after it was loaded in a confined process."""
    package = archive.open_path(path)
    found: tuple[evidence.Evidence, ...] = ()
    if not no_verify:
        context.say("loading it in a confined process, and running its golden inputs")
        found = (probation.run(path, verdicts=context.settings.home / "verdicts"),)
        if found[0].verdict == "failed":
            why = found[0].statistics.get("reason", "it failed its checks")
            raise errors.GateRefused(f"the package was not registered: {why}")
    if envelope := references.signature_beside(path):
        found = (*found, references.vouched(package.digest, envelope))
    elif session.carries_code(package.manifest.model.runtime):
        context.say("it carries code and nobody signed it: this home will not load it into a server")
    with planes.registry(context) as registry:
        pushed = registry.push(
            package,
            name=name or package.manifest.name,
            actor=references.actor(),
            evidence=found,
            description=description,
        )
    if not pushed.created:
        context.say("these bytes were registered before: nothing was added")
    context.result(pushed, f"{pushed.name}@{pushed.version}  {pushed.digest}")


@click.command()
@click.argument("ref")
@click.argument("path", type=click.Path(path_type=Path))
@click.pass_obj
def export(context: output.Context, ref: str, path: Path) -> None:
    """Write the package of REF: one file if PATH ends in .windlass, else a folder. A signature goes beside it."""
    with planes.registry(context) as registry:
        resolved = registry.resolve(refs.parse(ref))
        package = planes.package(context, registry, resolved.digest)
        write = archive.write_zip if path.suffix == ".windlass" else archive.write_folder
        write(package, path)
        if envelope := references.signature_of(registry, refs.parse(ref)):
            references.signature_file(path).write_text(envelope, encoding="utf-8")
    context.result(
        {"name": resolved.name, "version": resolved.version, "digest": resolved.digest, "path": str(path)}, str(path)
    )
