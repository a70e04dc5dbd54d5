"""`windlass serve`: resolves references, writes a spec, and becomes the server.

Must never stay in the way: after the `exec` no line of the CLI or the registry is left in the process.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click
import msgspec

from windlass import errors, references
from windlass.cli import output
from windlass.serving import launch
from windlass.serving.transport import addresses, peers, tls
from windlass.types import spec, strict_json

_MOST_WORKERS = 1_024


@click.command()
@click.argument("named", nargs=-1, metavar="REF...")
@click.option("--host", help="The address to listen on.  [127.0.0.1]")
@click.option("--port", type=int, help="Port for HTTP and gRPC; 0 is any free one.  [8000]")
@click.option("--admin-port", type=int, help="Metrics and status, on loopback only.  [8001]")
@click.option("--workers", metavar="N|auto", help="Processes that answer; auto: one for each core.  [auto]")
@click.option("--spec", "file", type=click.Path(path_type=Path, exists=True), help="A serving spec instead of REFs.")
@click.option(
    "--tls-cert", callback=output.keep, expose_value=False, help="Certificate chain, PEM; watched for changes."
)
@click.option("--tls-key", callback=output.keep, expose_value=False, help="The certificate's private key, PEM.")
@click.option(
    "--tls-client-ca", callback=output.keep, expose_value=False, help="CA whose certificates callers must have."
)
@click.option(
    "--allow", multiple=True, callback=output.keep, expose_value=False, help="Only peers in this network (CIDR)."
)
@click.option("--insecure", is_flag=True, help="Listen beyond loopback without keys and TLS.")
@click.option("--access-log", is_flag=True, help="A line of JSON for each request, on stderr.")
@click.option("--grace", default=30.0, show_default=True, help="Seconds to finish what is in flight when stopped.")
@click.option("--slo-p99-ms", type=click.FloatRange(min=0), help="The time in which 99 of 100 answers are to be given.")
@click.option("--max-queue-ms", type=click.FloatRange(min=0), help="Refuse whom it would make wait for longer.")
@click.pass_obj
def serve(
    context: output.Context,
    named: tuple[str, ...],
    host: str | None,
    port: int | None,
    admin_port: int | None,
    workers: str | None,
    file: Path | None,
    insecure: bool,
    access_log: bool,
    grace: float,
    slo_p99_ms: float | None,
    max_queue_ms: float | None,
) -> None:
    """Answer over HTTP and gRPC with versions REF: name, name@3, name:alias, name@sha256:..., or a package's path."""
    if bool(named) == bool(file):
        raise errors.UsageError("Name the versions to serve, or give --spec FILE.", hint="Try: windlass models list")
    defaults = context.settings.serve
    if file is not None:
        if any(output.kept(name) for name in ("tls_cert", "tls_key", "tls_client_ca", "allow")):
            raise errors.UsageError("A spec says its own TLS and networks.", hint="Write `tls` and `allow` into it.")
        wanted = strict_json.decode(file.read_bytes(), spec.Spec, what=str(file))
    else:
        keys, secret = references.keys_in_force(context.settings)
        listen = f"{defaults.host if host is None else host}:{defaults.port if port is None else port}"
        wanted = spec.Spec(
            endpoints=references.endpoints(context.settings, named),
            keys=keys,
            key_pepper=secret,
            tls=tls_files(),
            allow=_allow(),
            state=str(context.settings.home.absolute() / "state" / listen.replace(":", "-")),
            listen=listen,
            admin=f"127.0.0.1:{defaults.admin_port if admin_port is None else admin_port}",
            access_log=access_log,
            grace_s=grace,
        )
    if workers is not None:
        wanted = msgspec.structs.replace(wanted, workers=parse_workers(workers))
    bounds = {"slo_p99_ms": slo_p99_ms, "max_queue_ms": max_queue_ms}
    wanted = bounded(wanted, {name: value for name, value in bounds.items() if value is not None})
    check_exposure(wanted, insecure=insecure)
    check_free(wanted)
    path = launch.prepare(wanted, context.settings.home)
    command = launch.command(path, quiet=context.quiet)
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


def tls_files() -> spec.Tls | None:
    """The TLS files that the options name, each looked at before anything starts."""
    certificate, key, client_ca = output.kept("tls_cert"), output.kept("tls_key"), output.kept("tls_client_ca")
    if not certificate and not key:
        if client_ca:
            raise errors.UsageError("--tls-client-ca needs TLS.", hint="Give --tls-cert and --tls-key too.")
        return None
    if not certificate or not key:
        raise errors.UsageError("TLS needs a certificate and its key.", hint="Give both --tls-cert and --tls-key.")
    paths = [str(Path(path).absolute()) if path else "" for path in (certificate, key, client_ca)]
    wanted = spec.Tls(*paths)
    tls.context(wanted)
    return wanted


def _allow() -> tuple[str, ...]:
    wanted = tuple(output.kept("allow") or ())
    peers.networks(wanted)
    return wanted


def bounded(wanted: spec.Spec, bounds: dict[str, float]) -> spec.Spec:
    """These fields of every endpoint, whatever the spec says."""
    endpoints = tuple(msgspec.structs.replace(endpoint, **bounds) for endpoint in wanted.endpoints)
    return msgspec.structs.replace(wanted, endpoints=endpoints)


def parse_workers(text: str) -> int:
    """The number of workers, 0 for `auto`; `UsageError` if it is neither."""
    if text == "auto":
        return 0
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= _MOST_WORKERS:
        raise errors.UsageError(f"--workers takes a number from 1 to {_MOST_WORKERS}, or auto, not '{text[:32]}'.")
    return int(text)


def check_exposure(wanted: spec.Spec, *, insecure: bool) -> None:
    """`NotAllowed` for an address beyond this machine without keys and TLS, unless `--insecure` says so."""
    host, _ = addresses.split(wanted.listen)
    admin, _ = addresses.split(wanted.admin)
    if not addresses.is_loopback(admin):
        raise errors.NotAllowed(
            "The admin port listens on loopback only.", hint="Leave out its host, or use 127.0.0.1."
        )
    if addresses.is_loopback(host) or insecure or (wanted.keys and wanted.tls is not None):
        return
    lacks = "neither keys nor TLS" if wanted.tls is None and not wanted.keys else "no TLS" if wanted.keys else "no keys"
    raise errors.NotAllowed(
        f"{host} can be reached from other machines, and this server has {lacks}.",
        hint="Make a key (windlass keys create NAME) and give --tls-cert and --tls-key;"
        " or say --insecure if the network is trusted.",
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
