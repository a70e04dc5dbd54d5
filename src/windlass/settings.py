"""Settings: one TOML file, `WINDLASS_*` in the environment, then flags, in rising order.

Read by the CLI and the Python face, once, at start. The only file that reads the environment.
Must never take an unknown key in silence: it is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec

from windlass import errors

FILE = "windlass.toml"
PREFIX = "WINDLASS_"
# What has a short name in the environment too.
_SHORT = {"server": "client.server"}
# What msgspec says of a wrong value, and where.
_SAID = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Texts = tuple[str, ...]


class Registry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where names and versions are kept: an SQLAlchemy URL; empty is SQLite in the home."""

    db: str = ""
    store: str = ""


class Serve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The server's defaults."""

    host: str = "127.0.0.1"
    port: Port = 8000
    admin_port: Port = 8001


class Up(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the control plane's API listens, which host names it answers for, and how often it looks (seconds).

    What was live before stays loaded for `warm_s` after a rollout (0: it does not), so that the way back takes no
    loading; the price is its memory.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    hosts: Texts = ()
    interval_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 1.0
    warm_s: Annotated[float, msgspec.Meta(ge=0)] = 600.0


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place that is told of events (globs such as `rollout.*`), each signed with the secret that lies in a file."""

    url: str
    secret_file: Path
    events: Texts = ("*",)


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a version needs before an alias or a deployment may lead to it: passed evidence of each of these kinds."""

    require: Texts = ()


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What commands that ask a server use: an API key, and the control plane that every command goes through."""

    key: str = ""
    server: str = ""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set. `home` holds the registry, the blobs and the sockets of running servers."""

    home: Path = Path(".windlass")
    registry: Registry = Registry()
    serve: Serve = Serve()
    up: Up = Up()
    webhooks: tuple[Webhook, ...] = ()
    policy: Policy = Policy()
    client: Client = Client()

    @property
    def database_url(self) -> str:
        """The registry's database."""
        return self.registry.db or f"sqlite:///{self.home.absolute() / 'registry.db'}"

    @property
    def store_root(self) -> str:
        """The blob store."""
        return self.registry.store or str(self.home.absolute() / "blobs")


def load(
    flags: Mapping[str, Any] | None = None, *, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """The settings in force. `flags` are dotted names (`serve.port`); None values are not set."""
    path = Path(FILE) if file is None else file
    values: dict[str, Any] = {}
    if path.is_file():
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise errors.UsageError(f"{path.name} is not valid TOML: {e}") from None
    elif file is not None:
        raise errors.NotFound(f"There is no settings file {file}.", hint="Check the path given with --config.")
    for name, text in (os.environ if environ is None else environ).items():
        if name.startswith(PREFIX):
            dotted = name.removeprefix(PREFIX).lower().replace("__", ".")
            _set(
                values,
                _SHORT.get(dotted, dotted).split("."),
                _structure(name, text) if text.startswith(("[", "{")) else text,
            )
    for dotted, value in (flags or {}).items():
        if value is not None:
            _set(values, dotted.split("."), value)
    try:
        return msgspec.convert(_listed(Settings, values), Settings, strict=False, dec_hook=_path)
    except msgspec.ValidationError as e:
        raise _wrong(str(e)) from None


def colours_wanted(environ: Mapping[str, str] | None = None) -> bool:
    """False where the user asked for no colours at all (no-color.org)."""
    return not (os.environ if environ is None else environ).get("NO_COLOR")


def for_child(settings: Settings) -> dict[str, str]:
    """The whole environment of a child process whose settings are to be these, for what it does to the home itself."""
    own = {
        "HOME": str(settings.home.absolute()),
        "REGISTRY__DB": settings.registry.db,
        "REGISTRY__STORE": settings.registry.store,
        "CLIENT__SERVER": "",
        "CLIENT__KEY": "",
    }
    kept = {name: text for name, text in os.environ.items() if name != f"{PREFIX}SERVER"}
    return kept | {f"{PREFIX}{name}": text for name, text in own.items()}


def _structure(name: str, text: str) -> Any:
    """What a variable says: its text, or what that is as JSON where it begins like a list or a table."""
    if not text.startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except ValueError as e:
        raise errors.UsageError(f"{name} is not valid JSON: {e}", hint="A list of texts may also be a,b,c.") from None


def _set(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise errors.UsageError(f"the setting '{key}' is a single value, not a section")
        values = inner
    values[keys[-1]] = value


def _listed(kind: type[msgspec.Struct], values: dict[str, Any]) -> dict[str, Any]:
    """The values with lists for texts with commas: the environment has texts only."""
    found = dict(values)
    for field in msgspec.structs.fields(kind):
        value = values.get(field.name)
        (inner, *_) = get_args(field.type) or (field.type,)
        if field.type == Texts and isinstance(value, str):
            found[field.name] = [part.strip() for part in value.split(",") if part.strip()]
        elif _is_section(inner) and isinstance(value, dict):
            found[field.name] = _listed(inner, value)
        elif _is_section(inner) and isinstance(value, list):
            found[field.name] = [_listed(inner, one) if isinstance(one, dict) else one for one in value]
    return found


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise ValueError(f"Expected `{'path' if kind is Path else kind.__name__}`, got `{type(value).__name__}`")


def _wrong(said: str) -> errors.UsageError:
    found = _SAID.fullmatch(said)
    what, where = (said, "") if found is None else (found["what"], found["where"] or "")
    unknown = _UNKNOWN.fullmatch(what)
    if unknown is None:
        return errors.UsageError(f"The setting '{where}' is wrong: {what}.", hint="Mend it where it is set.")
    dotted, known = f"{where}.{unknown[1]}".lstrip("."), keys()
    close = difflib.get_close_matches(dotted, known, n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."
    return errors.UsageError(f"There is no setting '{dotted}'.", hint=hint)


def keys(kind: type[msgspec.Struct] = Settings, prefix: str = "") -> dict[str, Any]:
    """The dotted name of every setting, and its default."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        name = prefix + field.name
        found |= keys(field.type, f"{name}.") if _is_section(field.type) else {name: field.default}
    return found
