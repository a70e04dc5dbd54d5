"""`windlass serve`: resolves references, writes a spec, and becomes the server.

Must never stay in the way: after the `exec` no line of the CLI or the registry is left in the process.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from windlass import errors, references
from windlass.cli import output
from windlass.serving import addresses, launch
from windlass.types import spec, strict_json


@click.command()
@click.argument("named", nargs=-1, metavar="REF...")
@click.option("--host", help="The address to listen on.  [127.0.0.1]")
@click.option("--port", type=int, help="REST port; 0 is any free one.  [8000]")
@click.option("--admin-port", type=int, help="Metrics and status, on loopback only.  [8001]")
@click.option("--spec", "file", type=click.Path(path_type=Path, exists=True), help="A serving spec instead of REFs.")
@click.option("--insecure", is_flag=True, help="Listen beyond loopback without keys and TLS.")
@click.option("--access-log", is_flag=True, help="A line of JSON for each request, on stderr.")
@click.option("--grace", default=30.0, show_default=True, help="Seconds to finish what is in flight when stopped.")
@click.pass_obj
def serve(
    context: output.Context,
    named: tuple[str, ...],
    host: str | None,
    port: int | None,
    admin_port: int | None,
    file: Path | None,
    insecure: bool,
    access_log: bool,
    grace: float,
) -> None:
    """Answer over HTTP with the versions REF: name, name@3, name:alias, name@sha256:..., or a path to a package."""
    if bool(named) == bool(file):
        raise errors.UsageError("Name the versions to serve, or give --spec FILE.", hint="Try: windlass models list")
    defaults = context.settings.serve
    if file is not None:
        wanted = strict_json.decode(file.read_bytes(), spec.Spec, what=str(file))
    else:
        wanted = spec.Spec(
            endpoints=references.endpoints(context.settings, named),
            listen=f"{defaults.host if host is None else host}:{defaults.port if port is None else port}",
            admin=f"127.0.0.1:{defaults.admin_port if admin_port is None else admin_port}",
            access_log=access_log,
            grace_s=grace,
        )
    check_exposure(wanted, insecure=insecure)
    check_free(wanted)
    path = launch.prepare(wanted, context.settings.home)
    command = launch.command(path, quiet=context.quiet)
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


def check_exposure(wanted: spec.Spec, *, insecure: bool) -> None:
    """`NotAllowed` for an address beyond this machine without keys and TLS, unless `--insecure` says so."""
    host, _ = addresses.split(wanted.listen)
    admin, _ = addresses.split(wanted.admin)
    if not addresses.is_loopback(admin):
        raise errors.NotAllowed(
            "The admin port listens on loopback only.", hint="Leave out its host, or use 127.0.0.1."
        )
    if not addresses.is_loopback(host) and not insecure:
        lacks = "no TLS" if wanted.keys else "neither keys nor TLS"
        raise errors.NotAllowed(
            f"{host} can be reached from other machines, and this server has {lacks}.",
            hint="Serve on 127.0.0.1 behind a proxy that has both, or say --insecure if the network is trusted.",
        )


def check_free(wanted: spec.Spec) -> None:
    """`Unavailable` if a port is taken, before anything is loaded."""
    for address in (wanted.listen, wanted.admin):
        host, port = addresses.split(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as e:
                raise errors.Unavailable(
                    f"Cannot listen on {address}: {e.strerror}.", hint="Choose another --port or --admin-port."
                ) from None
