"""Writes the frozen lists: what callers of Windlass may rely on, one line each, in tests/house/frozen/.

Run by `make frozen` when a change is a decision; tests/house/test_frozen.py compares the product with what lies there.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
FOLDER = Path(__file__).parents[1] / "tests" / "house" / "frozen"


def error_codes() -> Iterator[str]:
    """Each error: its code, the exit code, its name."""
    from windlass import errors

    def walk(kind: type[errors.WindlassError]) -> Iterator[type[errors.WindlassError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from walk(child)

    for kind in walk(errors.WindlassError):
        if kind.__module__ == errors.__name__:
            yield f"{kind.code} {kind.exit_code} {kind.__name__}"


def routes() -> Iterator[str]:
    """Each route of each protocol in the catalogue, and the permission it asks."""
    from windlass import plugins

    for name in plugins.catalog()["protocols"]:
        for route in plugins.load("protocols", name)().routes():
            yield f"{route.path} {route.method} {route.permission} {name}"


def api_routes() -> Iterator[str]:
    """Each route of the control plane's API: the permission it asks, its query, and what it takes and answers."""
    from windlass.api import app

    for route in app.ROUTES:
        query = "" if route.query is None else "?" + "&".join(route.query.__struct_encode_fields__)
        kinds = " -> ".join(_type(kind) for kind in (route.body, route.answer))
        yield f"{route.full_path}{query} {route.method} {route.permission} {kinds}"


def bodies() -> Iterator[str]:
    """Each field of each body that the API takes or answers."""
    from windlass.api import app, document

    for name, schema in document.make(app.ROUTES)["components"]["schemas"].items():
        for field in schema.get("properties", {}):
            yield f"{name}.{field}{' required' if field in schema.get('required', ()) else ''}"


def scopes() -> Iterator[str]:
    """Each scope that a key can have."""
    from windlass.records import keys

    return iter(keys.SCOPES)


def settings() -> Iterator[str]:
    """Each setting and its default."""
    from windlass import settings as settings_

    return (f"{name} {default!r}" for name, default in settings_.keys().items())


def plugins() -> Iterator[str]:
    """Each plugin of each kind."""
    from windlass import plugins as plugins_

    for kind, names in plugins_.catalog().items():
        for name in names:
            yield f"{kind} {name}"


def public_names() -> Iterator[str]:
    """Each name of `import windlass`, and its parameters."""
    import windlass

    for name in windlass.__all__:
        thing = getattr(windlass, name)
        yield f"{name}{inspect.signature(thing)}" if inspect.isfunction(thing) else name
        if inspect.isclass(thing) and not issubclass(thing, Exception):
            for method, body in inspect.getmembers(thing, inspect.isfunction):
                if not method.startswith("_") or method == "__init__":
                    yield f"{name}.{method}{inspect.signature(body)}"


def cli_options() -> Iterator[str]:
    """Each command with its arguments and options."""
    import click

    from windlass.cli import main

    def walk(command: click.Command, path: str) -> Iterator[str]:
        for parameter in command.params:
            yield f"{path} {'/'.join((*parameter.opts, *parameter.secondary_opts))}"
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                if child is not None:
                    yield from walk(child, f"{path} {name}")
        elif not command.params:
            yield path

    yield from walk(main.cli, "windlass")


def columns() -> Iterator[str]:
    """Each column of each table of the registry."""
    from windlass.storage import tables

    for table in tables.metadata.sorted_tables:
        for column in table.columns:
            yield f"{table.name}.{column.name} {column.type!r}{'' if column.nullable else ' not null'}"


def _type(kind: Any) -> str:
    return "nothing" if kind is None else getattr(kind, "__name__", str(kind).rpartition(".")[2])


LISTS: dict[str, Callable[[], Iterator[str]]] = {
    "error_codes": error_codes,
    "routes": routes,
    "api_routes": api_routes,
    "bodies": bodies,
    "scopes": scopes,
    "settings": settings,
    "plugins": plugins,
    "public_names": public_names,
    "cli_options": cli_options,
    "columns": columns,
}


def current(name: str) -> str:
    """The list as the product is now."""
    # A function as a default value is shown with its address, which is no promise.
    lines = {ADDRESS.sub("", line) for line in LISTS[name]()}
    return "".join(f"{line}\n" for line in sorted(lines))


def main() -> Any:
    FOLDER.mkdir(exist_ok=True)
    for name in LISTS:
        (FOLDER / f"{name}.txt").write_text(current(name))
        print(f"wrote {name}.txt")


if __name__ == "__main__":
    sys.exit(main())
