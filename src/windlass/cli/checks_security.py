"""What `windlass doctor --security` looks at: who can read secrets, who can reach what, which code may run.

Each check takes the settings and the time and gives findings. Must never show a secret, nor make one.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from windlass import errors, references, settings
from windlass.cli import checks
from windlass.controller import webhooks as senders
from windlass.packaging import session
from windlass.records import keys as key_rows
from windlass.security import landlock, pepper
from windlass.serving import launch
from windlass.serving.transport import addresses, tls
from windlass.types import refs

_SOON_S = 14 * 86_400.0
_LEAST_SECRET = 24
_MOST_MODELS = 1_000


def permissions(configuration: settings.Settings, _: float) -> Iterator[checks.Finding]:
    """Whether others can read the home's secrets, or write what is trusted."""
    home = configuration.home.absolute()
    if not home.exists():
        return
    secret = [home / pepper.FILE, *(home / "keys").glob("*"), *home.glob("*.pem"), *home.glob("*key*")]
    open_ones = sorted({p for p in secret if p.is_file() and p.stat().st_mode & 0o077})
    for path in open_ones:
        yield checks.Finding("secret", "wrong", f"{path} can be read by others", f"Close it: chmod 600 {path}")
    written = [p for p in (home, home / "trusted", home / "registry.db", home / "run") if _others_write(p)]
    for path in written:
        mend = f"Close it: chmod go-w {path}"
        yield checks.Finding("permissions", "wrong", f"{path} can be written by others", mend)
    if not open_ones and not written:
        mode = stat.filemode(home.stat().st_mode)
        yield checks.Finding("permissions", "ok", f"{home} ({mode}): no secret is readable, nothing writable by others")


def trusted(configuration: settings.Settings, _: float) -> Iterator[checks.Finding]:
    """Whose signature lets code run here."""
    names = sorted(path.stem for path in (configuration.home / "trusted").glob("*.pub"))
    yield checks.Finding("trusted keys", "ok", ", ".join(names) or "none: no package that carries code will run")


def unsigned(configuration: settings.Settings, _: float) -> Iterator[checks.Finding]:
    """Versions that people are led to, that carry code, and that nobody signed."""
    if not checks.there(configuration):
        return
    looked = 0
    with contextlib.closing(references.open_registry(configuration)) as registry:
        for model in registry.models()[:_MOST_MODELS]:
            for number in sorted(set(model.aliases.values())):
                shown = registry.show(refs.Ref(kind="version", name=model.name, version=number))
                looked += 1
                if shown.manifest is None or not session.carries_code(shown.manifest.model.runtime):
                    continue
                if not any(found.evidence.kind == "signature" for found in shown.evidence):
                    yield checks.Finding(
                        "unsigned code",
                        "wrong",
                        f"{model.name}@{number} carries code ({shown.manifest.model.runtime}) and nobody signed it",
                        "Package it again on a machine whose key is trusted here.",
                    )
    yield checks.Finding("code", "ok", f"looked at {looked} versions that an alias leads to")


def keys(configuration: settings.Settings, now: float) -> Iterator[checks.Finding]:
    """Keys that end soon, and keys that never do and may everything."""
    if not checks.there(configuration) or not (configuration.home / pepper.FILE).exists():
        yield checks.Finding("keys", "ok", "there are none: on loopback the server answers everybody of this machine")
        return
    with contextlib.closing(references.open_keys(configuration)) as found:
        live = [k for k in found.every() if k.revoked_at is None and (k.expires_at is None or k.expires_at > now)]
    for key in live:
        if key.expires_at is not None and key.expires_at - now < _SOON_S:
            days = (key.expires_at - now) / 86_400
            mend = "Make another in time: windlass keys create NAME"
            yield checks.Finding("key", "warning", f"{key.id} ({key.name}) ends in {days:.1f} days", mend)
        if key.rotating:
            mend = f"When every caller has the new one: windlass keys rotate {key.id} --end-old"
            yield checks.Finding("key", "warning", f"{key.id} ({key.name}) has two live secrets", mend)
    admins = [key for key in live if set(key_rows.SCOPES) <= set(key.scopes) and key.expires_at is None]
    yield checks.Finding("keys", "ok", f"{len(live)} live, of which {len(admins)} may everything and never end")


def exposure(configuration: settings.Settings, now: float) -> Iterator[checks.Finding]:
    """Servers that other machines can reach, and their certificates."""
    for wanted in launch.running(configuration.home):
        host, _ = addresses.split(wanted.listen)
        near = addresses.is_loopback(host)
        lacks = [what for what, there in (("keys", wanted.keys), ("TLS", wanted.tls)) if not there]
        said = f"{wanted.listen} " + ("is for this machine only" if near else f"without {' and '.join(lacks)}")
        if not near and not lacks:
            said = f"{wanted.listen} has keys and TLS"
        bad = bool(lacks) and not near
        mend = "Stop it, and start it with keys and TLS: windlass serve --help" if bad else ""
        yield checks.Finding("exposure", "wrong" if bad else "ok", said, mend)
        if wanted.tls is not None:
            try:
                days = (tls.context(wanted.tls)[1] - now) / 86_400
            except errors.WindlassError as e:
                yield checks.Finding("certificate", "wrong", e.message, e.hint)
                continue
            soon = days * 86_400 < _SOON_S
            mend = "Renew it: the files are read again when they change." if soon else ""
            said = f"{wanted.tls.certificate} ends in {days:.0f} days"
            yield checks.Finding("certificate", "warning" if soon else "ok", said, mend)
    if not addresses.is_loopback(configuration.up.host):
        said = f"the API listens on {configuration.up.host}, which other machines can reach"
        yield checks.Finding("exposure", "warning", said, "windlass up asks for TLS there; callers need a key always.")


def webhooks(configuration: settings.Settings, _: float) -> Iterator[checks.Finding]:
    """Whether each webhook's secret is there, long enough, and a secret; and whether it travels encrypted."""
    for hook in configuration.webhooks:
        path = hook.secret_file
        if not path.is_file():
            yield checks.Finding(
                "webhook", "wrong", f"{senders.named(hook.url)}: there is no {path}", "Write its secret there."
            )
        elif path.stat().st_mode & 0o077:
            yield checks.Finding("webhook", "wrong", f"{path} can be read by others", f"Close it: chmod 600 {path}")
        elif len(path.read_bytes().strip()) < _LEAST_SECRET:
            mend = "Make one: openssl rand -base64 32"
            yield checks.Finding("webhook", "wrong", f"{path} holds fewer than {_LEAST_SECRET} bytes", mend)
        else:
            plain = hook.url.startswith("http://")
            mend = "Use https://, or others on the way read it." if plain else ""
            yield checks.Finding(
                "webhook", "warning" if plain else "ok", f"{senders.named(hook.url)} ({', '.join(hook.events)})", mend
            )


def walls(_: settings.Settings, __: float) -> Iterator[checks.Finding]:
    """Whether this machine has what confines code that is not trusted."""
    version = landlock.abi()
    said = f"Landlock ABI {version}" if version else "this kernel has no Landlock"
    mend = "" if version else "Capturing pickles needs --allow-weaker-sandbox here: only for files that you trust."
    yield checks.Finding("sandbox", "ok" if version else "warning", said, mend)


def _others_write(path: Path) -> bool:
    return path.exists() and not path.is_symlink() and bool(path.stat().st_mode & 0o022)


CHECKS: tuple[checks.Check, ...] = (permissions, trusted, unsigned, keys, exposure, webhooks, walls)
