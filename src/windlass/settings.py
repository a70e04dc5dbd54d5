"""Settings: one TOML file, `WINDLASS_*` in the environment, then flags, in rising order.

Read by the CLI and the Python face, once, at start. The only file that reads the environment.
Must never take an unknown key in silence: it is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic

from windlass import errors

FILE = "windlass.toml"
PREFIX = "WINDLASS_"
# What has a short name in the environment too.
_SHORT = {"server": "client.server"}


class Registry(pydantic.BaseModel, frozen=True, extra="forbid"):
    """Where names and versions are kept: an SQLAlchemy URL; empty is SQLite in the home."""

    db: str = ""
    store: str = ""


class Serve(pydantic.BaseModel, frozen=True, extra="forbid"):
    """The server's defaults."""

    host: str = "127.0.0.1"
    port: int = pydantic.Field(default=8000, ge=0, le=65535)
    admin_port: int = pydantic.Field(default=8001, ge=0, le=65535)


def _listed(value: Any) -> Any:
    """The environment has texts only: there a list is written with commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], pydantic.BeforeValidator(_listed)]


class Up(pydantic.BaseModel, frozen=True, extra="forbid"):
    """Where the control plane's API listens, which host names it answers for, and how often it looks (seconds).

    What was live before stays loaded for `warm_s` after a rollout (0: it does not), so that the way back takes no
    loading; the price is its memory.
    """

    host: str = "127.0.0.1"
    port: int = pydantic.Field(default=8080, ge=0, le=65535)
    hosts: Texts = ()
    interval_s: float = pydantic.Field(default=1.0, gt=0, le=60)
    warm_s: float = pydantic.Field(default=600.0, ge=0)


class Webhook(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A place that is told of events (globs such as `rollout.*`), each signed with the secret that lies in a file."""

    url: str
    secret_file: Path
    events: Texts = ("*",)


class Policy(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What a version needs before an alias or a deployment may lead to it: passed evidence of each of these kinds."""

    require: Texts = ()


class Client(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What commands that ask a server use: an API key, and the control plane that every command goes through."""

    key: str = ""
    server: str = ""


class Settings(pydantic.BaseModel, frozen=True, extra="forbid"):
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
        return Settings.model_validate(values)
    except pydantic.ValidationError as e:
        raise _wrong(e) from None


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


def _wrong(error: pydantic.ValidationError) -> errors.UsageError:
    first = error.errors()[0]
    dotted = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return errors.UsageError(f"The setting '{dotted}' is wrong: {first['msg']}.", hint="Mend it where it is set.")
    known = _keys(Settings)
    close = difflib.get_close_matches(dotted, known, n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."
    return errors.UsageError(f"There is no setting '{dotted}'.", hint=hint)


def _keys(model: type[pydantic.BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
            keys.extend(_keys(field.annotation, f"{prefix}{name}."))
        else:
            keys.append(prefix + name)
    return keys
