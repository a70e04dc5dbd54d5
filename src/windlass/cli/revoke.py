"""`windlass models revoke|reinstate`: bytes that are to run nowhere any more, and the way back.

Loaded by `cli/models.py`. Must never say that bytes are gone from a server before its controller has said so.
"""

from __future__ import annotations

import click

from windlass import errors, references
from windlass.cli import output, planes
from windlass.types import refs


@click.command()
@click.argument("what", metavar="REF|DIGEST")
@click.option("--reason", required=True, help="Why, for the record and for whoever asks for it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def revoke(context: output.Context, what: str, reason: str, yes: bool) -> None:
    """Put every version that needs these bytes into quarantine; deployments go back to what was live."""
    with planes.registry(context) as registry:
        digest = what if refs.DIGEST.fullmatch(what) else registry.show(refs.parse(what)).version.digest
        held = registry.users(digest)
        names = [f"{v.name}@{v.version}" for v in held.versions]
        if not yes:
            live = f"; live in {', '.join(held.deployments)}" if held.deployments else ""
            click.confirm(f"Revoke {digest[:19]} ({', '.join(names) or 'no version'}{live})?", abort=True, err=True)
        done = registry.revoke(digest, reason, actor=references.actor())
    context.result(done, f"{digest} is revoked: {', '.join(names)} in quarantine")
    if done.deployments:
        context.say(
            f"Deployments that run it: {', '.join(done.deployments)}. Their controller brings back the last good."
        )
        if not planes.controlled(context):
            raise errors.Unavailable(
                f"No controller is running: {', '.join(done.deployments)} run on as before.",
                hint="Start one: windlass up",
            )


@click.command()
@click.argument("digest")
@click.option("--reason", required=True, help="Why, for the record.")
@click.pass_obj
def reinstate(context: output.Context, digest: str, reason: str) -> None:
    """Take the revocation of DIGEST back; its versions stay in quarantine until they pass `windlass verify`."""
    with planes.registry(context) as registry:
        registry.reinstate(digest, reason, actor=references.actor())
    context.result({"digest": digest, "revoked": False}, f"{digest} is no longer revoked; verify its versions now")
