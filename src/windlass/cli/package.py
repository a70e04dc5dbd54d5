"""`windlass package`: from a trained model to a registered, checked version.

Must never register what a check refused.
"""

from __future__ import annotations

from pathlib import Path

import click

from windlass import errors, plugins, references, sdk
from windlass.cli import example as examples
from windlass.cli import output, planes, progress
from windlass.packaging import archive, session
from windlass.packaging import package as packages
from windlass.packaging.capture import base
from windlass.types import manifest, refs


@click.command()
@click.argument("source")
@click.option("--name", required=True, help="The model's name.")
@click.option("--example", type=click.Path(path_type=Path), help="Real inputs: .npz, .npy, .json or .csv.")
@click.option("--labels", default="", help="Class labels: a file, one a line, or a list with commas.")
@click.option("--transform", "transforms", multiple=True, help="kind:key=value,... or a TOML file; may be repeated.")
@click.option("--max-batch", type=click.IntRange(1), help="The most rows of one request.  [128; tables 1024]")
@click.option(
    "--runtime", default="onnx", help="What runs it: onnx, or torchscript, torch_export, python (carry code)."
)
@click.option("--description", default="", help="A sentence for the model card.")
@click.option(
    "--output", "file", type=click.Path(path_type=Path), help="Also write the package to this .windlass file."
)
@click.option("--allow-weaker-sandbox", is_flag=True, help="Go on where this machine lacks a wall of the sandbox.")
@click.pass_obj
def package(
    context: output.Context,
    source: str,
    name: str,
    example: Path | None,
    labels: str,
    transforms: tuple[str, ...],
    max_batch: int | None,
    runtime: str,
    description: str,
    file: Path | None,
    allow_weaker_sandbox: bool,
) -> None:
    """Capture the model SOURCE, check it and register it as a new version.

    SOURCE is a file (.onnx, .pt2, .pt, .pkl, .joblib, .ubj, .lgb ...), a Hugging Face folder, or module:factory for
    your own code.
    """
    if file is not None and file.exists():
        # Before minutes are spent, and before anything is registered.
        raise errors.Conflict(f"'{file}' exists already.", hint="Remove it, or choose another name.")
    options = base.Options(
        example=None if example is None else examples.tensors(example),
        labels=examples.labels(labels) if labels else (),
        transforms=tuple(examples.transform(text) for text in transforms),
        runtime=plugins.entry("runtimes", runtime).name,
    )
    with progress.steps(context, f"Packaging {name}") as step:
        made = packages.package(
            source,
            name=refs.check_name(name),
            options=options,
            max_batch=max_batch,
            card=manifest.Card(description=description),
            progress=step,
            verdicts=context.settings.home / "verdicts",
            allow_weaker=allow_weaker_sandbox,
        )
        with planes.registry(context) as registry:
            version = sdk.push(registry, context.settings, made, description=description)
    if file is not None:
        archive.write_zip(made.package, file)
        if session.carries_code(made.package.manifest.model.runtime):
            signature = references.signed(context.settings, made.package.manifest.name, made.package.digest)
            references.signature_file(file).write_text(str(signature.statistics["envelope"]), encoding="utf-8")
    for note in version.notes:
        context.say(f"note: {note}")
    if not version.created:
        context.say(f"These bytes were registered before, as {version}: nothing new was made.")
    context.result(version, f"{version}  {version.digest}")
