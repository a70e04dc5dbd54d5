"""`windlass up`: the control plane's API, its controller and a server of this machine, in one command.

Loaded by `cli/main.py`. The server is a process of its own: it serves on when this one is killed, and the next `up`
finds it again. Must never show the admin key but once, nor be reachable from other machines without TLS and keys.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import uvicorn

from windlass import errors, references, settings
from windlass.api import app as apps
from windlass.api import connections
from windlass.cli import output, planes, serve
from windlass.client import control
from windlass.controller import loop
from windlass.desired import deployments
from windlass.records import keys as key_rows
from windlass.serving import launch
from windlass.serving.transport import addresses
from windlass.serving.transport import tls as tls_files
from windlass.storage import database
from windlass.targets import local
from windlass.types import spec

log = logging.getLogger(__name__)
_STARTED_BY_THEN_S = 60.0
_ENDED_BY_THEN_S = 10.0
_LEADS_BY_THEN_S = 5.0
# Connections to the API; those beyond are told so.
_AT_ONCE = 512
_PORT = click.IntRange(0, 65_535)
# A key with this scope can make others.
_MAKES_KEYS = "key:write"


class Up(msgspec.Struct, frozen=True):
    """What is up: the control plane's URL, the server's, and the admin key where it was made just now."""

    url: str
    server: str
    home: str
    key: str = ""


@click.command()
@click.option("--db", help="The database, an SQLAlchemy URL.  [SQLite in the home]")
@click.option("--store", help="The blob store: a path, or an object store's URL.  [in the home]")
@click.option("--host", help="The address of the API and the server.  [127.0.0.1]")
@click.option("--port", type=_PORT, help="The API's port; 0 is any free one.  [8080]")
@click.option("--serve-port", type=_PORT, help="The server's port; 0 is any free one.  [8000]")
@click.option("--admin-port", type=_PORT, help="The server's metrics and status, on loopback only.  [8001]")
@click.option("--workers", metavar="N|auto", default="auto", help="The server's processes that answer.  [auto]")
@click.option("--tls-cert", callback=output.keep, expose_value=False, help="Certificate chain of both, PEM.")
@click.option("--tls-key", callback=output.keep, expose_value=False, help="The certificate's private key, PEM.")
@click.option("--insecure", is_flag=True, help="Listen beyond loopback without TLS.")
@click.option("--keep-serving", is_flag=True, help="Ctrl-C ends the control plane only; the server serves on.")
@click.pass_obj
def up(
    context: output.Context,
    db: str | None,
    store: str | None,
    host: str | None,
    port: int | None,
    serve_port: int | None,
    admin_port: int | None,
    workers: str,
    insecure: bool,
    keep_serving: bool,
) -> None:
    """Run the control plane and a server of this machine, until Ctrl-C ends both."""
    planes.here(context, "windlass up")
    given: dict[str, dict[str, Any]] = {
        "registry": {"db": db, "store": store},
        "up": {"host": host, "port": port},
        "serve": {"host": host, "port": serve_port, "admin_port": admin_port},
    }
    configuration = _configured(context.settings, given)
    template = _template(configuration, serve.parse_workers(workers))
    _check(configuration, template, insecure=insecure)
    _log(context)
    # No core file: it would hold the keys of whoever asked.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stop = threading.Event()
    with _opened(configuration) as plane, _signals(stop) as caught, _admin(plane.keys) as made:
        listening = _listen(configuration.up.host, configuration.up.port)
        api = uvicorn.Server(_uvicorn(apps.create(plane), template.tls))
        controller = loop.compose(configuration, plane.rows, plane.registry, template=template)
        threads = (
            threading.Thread(target=api.run, args=([listening],), name="api", daemon=True),
            threading.Thread(target=controller.run, args=(stop,), name="controller", daemon=True),
        )
        try:
            server = _data_plane(configuration, template)
            for thread in threads:
                thread.start()
            _wait_for(api, threads[0])
            _wait_for_lead(output.Context(configuration))
            made.told = True
            _tell(context, Up(_url(listening, template), server, str(configuration.home), made.key))
            _until(stop, threads, api, template.tls)
        finally:
            stop.set()
            api.should_exit = True
            for thread in threads:
                if thread.is_alive():
                    thread.join(_ENDED_BY_THEN_S)
            _end(context, configuration, keep=keep_serving or caught != [signal.SIGINT])


def _configured(found: settings.Settings, given: dict[str, dict[str, Any]]) -> settings.Settings:
    """The settings with what the options say."""
    for section, values in given.items():
        told = {name: value for name, value in values.items() if value is not None}
        found = msgspec.structs.replace(found, **{section: msgspec.structs.replace(getattr(found, section), **told)})
    return found


def _template(configuration: settings.Settings, workers: int) -> spec.Spec:
    """The server that is started where none runs."""
    serving = configuration.serve
    return spec.Spec(
        endpoints=(),
        managed=True,
        listen=f"{serving.host}:{serving.port}",
        admin=f"127.0.0.1:{serving.admin_port}",
        state=str(configuration.home.absolute() / "state" / local.NAME),
        workers=workers,
        tls=serve.tls_files(),
    )


def _check(configuration: settings.Settings, template: spec.Spec, *, insecure: bool) -> None:
    """`NotAllowed` for what other machines can reach without TLS; `Unavailable` for a port that is taken."""
    host = configuration.up.host
    if not insecure and template.tls is None and not addresses.is_loopback(host):
        raise errors.NotAllowed(
            f"{host} can be reached from other machines, and keys would travel in the clear.",
            hint="Give --tls-cert and --tls-key, or say --insecure if the network is trusted.",
        )
    # The server is given the home's keys, the admin key among them: what it may lack is TLS.
    known = msgspec.structs.replace(template, keys=(spec.Key(id="admin", hmac=""),))
    serve.check_exposure(known, insecure=insecure)
    if launch.find(configuration.home, local.NAME) is None:
        try:
            serve.check_free(template)
        except errors.Unavailable as e:
            raise errors.Unavailable(
                e.message, hint="Does another home's server run? Choose another --serve-port or --admin-port."
            ) from None


@contextlib.contextmanager
def _opened(configuration: settings.Settings) -> Iterator[apps.Plane]:
    """What the API acts on."""
    with contextlib.ExitStack() as opened:
        configuration.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        rows = opened.enter_context(contextlib.closing(database.open_database(configuration.database_url)))
        registry = opened.enter_context(contextlib.closing(references.open_registry(configuration)))
        keys = opened.enter_context(contextlib.closing(references.open_keys(configuration)))
        wishes = deployments.Deployments(rows, registry, configuration.policy.require)
        yield apps.Plane(rows, registry, wishes, keys, configuration)


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM end it; the list says which came."""
    caught: list[int] = []

    def note(number: int, _: object) -> None:
        caught.append(number)
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Admin:
    """The admin key where it was made just now, and whether anybody has seen it."""

    def __init__(self, key: str = "") -> None:
        self.key = key
        self.told = False


@contextlib.contextmanager
def _admin(keys: key_rows.Keys) -> Iterator[_Admin]:
    """An admin key, if no live one can make keys: the first start of a home. One that nobody was told of ends."""
    now = time.time()
    live = [k for k in keys.every() if k.revoked_at is None and (k.expires_at is None or k.expires_at > now)]
    if any(_MAKES_KEYS in key.scopes for key in live):
        yield _Admin()
        return
    name = "admin" if all(key.name != "admin" for key in live) else f"admin-{int(now)}"
    made = keys.create(key_rows.Wish(name, scopes=key_rows.SCOPES), actor=references.actor())
    admin = _Admin(made.key)
    try:
        yield admin
    finally:
        if not admin.told:
            keys.revoke(made.id, actor=references.actor(), reason="it was never shown")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as e:
        listening.close()
        raise errors.Unavailable(
            f"Cannot listen on {host}:{port}: {e.strerror}.",
            hint="Is another `windlass up` running? See: windlass doctor. Or choose another --port.",
        ) from None
    return listening


def _uvicorn(app: Any, tls: spec.Tls | None) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        # The other parser has no limit for headers.
        http=connections.Http,
        h11_max_incomplete_event_size=65_536,
        ws="none",
        limit_concurrency=_AT_ONCE,
        server_header=False,
        proxy_headers=False,
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
        log_config=None,
    )
    config.load()
    if tls is not None:
        config.ssl, _ = tls_files.context(tls)
        # The API speaks no HTTP/2.
        config.ssl.set_alpn_protocols(["http/1.1"])
    return config


def _data_plane(configuration: settings.Settings, template: spec.Spec) -> str:
    """The URL of the server of this machine, which is started unless it runs."""
    keys, secret = references.keys_in_force(configuration)
    wanted = msgspec.structs.replace(template, keys=keys, key_pepper=secret)
    talk = control.Control(launch.detached(wanted, configuration.home, name=local.NAME))
    try:
        return str(talk.status()["addresses"]["listen"])
    finally:
        talk.close()


def _wait_for(api: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _STARTED_BY_THEN_S
    while not api.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise errors.Unavailable("the API did not start.", hint="See the log above.")
        time.sleep(0.02)


def _wait_for_lead(context: output.Context) -> None:
    """Until there is a controller: whoever deploys next is told that one is at work."""
    deadline = time.monotonic() + _LEADS_BY_THEN_S
    while not planes.controlled(context) and time.monotonic() < deadline:
        time.sleep(0.05)


def _until(
    stop: threading.Event, threads: tuple[threading.Thread, ...], api: uvicorn.Server, tls: spec.Tls | None
) -> None:
    """Wait for the end; meanwhile a certificate that was renewed is put in force for new connections."""
    stamp = _stamp(tls)
    while not stop.wait(1.0):
        for thread in threads:
            if not thread.is_alive():
                raise errors.InternalError(f"the {thread.name} has ended unasked; see the log above.")
        if tls is not None and stamp != (now := _stamp(tls)):
            stamp = now
            try:
                tls_files.context(tls)
                if api.config.ssl is not None:
                    api.config.ssl.load_cert_chain(tls.certificate, tls.key)
            except (errors.WindlassError, OSError) as e:
                log.warning("the API's certificate stays as it was: %s", e)


def _stamp(tls: spec.Tls | None) -> tuple[int, ...]:
    with contextlib.suppress(OSError):
        return tuple(Path(path).stat().st_mtime_ns for path in (tls.certificate, tls.key)) if tls else ()
    return (0,)


def _url(listening: socket.socket, template: spec.Spec) -> str:
    host, port = listening.getsockname()[:2]
    return f"{'https' if template.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _tell(context: output.Context, found: Up) -> None:
    lines = [f"control plane  {found.url}", f"server         {found.server}"]
    if found.key:
        lines.append(f"admin key      {found.key}")
    context.result(found, "\n".join(lines))
    if found.key:
        # In a log that is kept, a secret stands once at most.
        key = found.key if context.lively else f"{found.key[:6]}..."
        context.say("The admin key is shown only now; it may everything. In another terminal, or on another machine:")
        context.say(f"  export WINDLASS_SERVER={found.url} WINDLASS_CLIENT__KEY={key}")
    asking = "/predict/NAME -H 'Authorization: Bearer KEY' -H 'Content-Type: application/json' -d '...'"
    context.say("Next: windlass deploy NAME REF --strategy canary --wait    (windlass models list; Ctrl-C ends it)")
    context.say("Callers need a key each: windlass keys create CALLER")
    context.say(f"  curl {found.server}{asking}")


def _end(context: output.Context, configuration: settings.Settings, *, keep: bool) -> None:
    if keep:
        if launch.find(configuration.home, local.NAME) is not None:
            context.say("The control plane has ended. The server serves on; the next `windlass up` takes it over.")
        return
    if _led_by_another(configuration):
        context.say("This control plane has ended. The server serves on: another `windlass up` of this home has it.")
        return
    context.say("ending: the server finishes what is in flight")
    launch.stop(configuration.home, local.NAME)


def _led_by_another(configuration: settings.Settings) -> bool:
    """Whether a controller is at work, now that ours has given back what it had."""
    with contextlib.suppress(errors.WindlassError):
        return planes.controlled(output.Context(configuration))
    return False


def _log(context: output.Context) -> None:
    """Log on stderr; libraries only what is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("windlass").setLevel(logging.WARNING if context.quiet else logging.INFO)
    # It tells of each opening, and the controller opens the keys at each beat.
    logging.getLogger("windlass.storage").setLevel(logging.WARNING)
