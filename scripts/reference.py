"""Writes docs/reference/: the command line, the Python face, routes, errors, formats and settings, from the code.

Run by `make reference` after a change; tests/house/test_reference.py compares the pages with the code.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from reference_parts import code, fields, paragraphs, structs, table

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
TRANSFORMS = ("image", "tokenizer", "tabular", "classify", "pooling")


def cli() -> str:
    """Every command with its arguments and options."""
    import click

    from windlass.cli import main

    def walk(command: click.Command, path: str, parent: click.Context | None) -> Iterator[str]:
        context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent)
        usage = " ".join([path, *command.collect_usage_pieces(context)])
        yield f"## {path}\n\n{paragraphs(command.help)}\n    {usage}\n\n"
        rows = [row for row in map(option_row, command.params) if row]
        if rows:
            yield table(("option", "what it does", "default"), rows) + "\n"
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                if child is not None:
                    yield from walk(child, f"{path} {name}", context)

    intro = (
        "Results go to stdout, progress and log to stderr. Every command takes `--json`, for results as JSON, and\n"
        "`--quiet`, which leaves out the progress. A reference is `name` (its alias\n"
        "`production`, else the newest version that is READY), `name@3`, `name:alias`, `name@sha256:...`, or the path\n"
        "of a package. Exit codes are in [errors](errors.md).\n\n"
    )
    return f"# Command line\n\n{intro}" + "".join(walk(main.cli, "windlass", None))


def option_row(parameter: Any) -> tuple[str, str, str] | None:
    """An option's names, help and default; None for arguments, which the usage line shows."""
    import click

    if not isinstance(parameter, click.Option):
        return None
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    kind = "" if parameter.is_flag else f" {(parameter.metavar or parameter.type.name).upper()}"
    shown = re.search(r"\[(.+)\]$", parameter.help or "")
    given = parameter.default if isinstance(parameter.default, int | float) and not parameter.is_flag else ""
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    return code(names + kind), re.sub(r"\s*\[.+\]$", "", parameter.help or ""), shown[1] if shown else str(given)


# Python


def python() -> str:
    """Each public name with its parameters and docstring."""
    import windlass

    text = (
        "# Python\n\n    import windlass as wl\n\nEach name is imported when it is first used: `import windlass` loads "
        "no numpy and no framework.\n\n"
    )
    for name in (n for n in windlass.__all__ if n != "__version__"):
        thing = getattr(windlass, name)
        if inspect.isfunction(thing):
            text += f"## wl.{name}\n\n{signature(f'wl.{name}', thing)}{paragraphs(thing.__doc__)}\n"
            continue
        text += f"## wl.{name}\n\n{paragraphs(thing.__doc__)}\n"
        if issubclass(thing, Exception):
            text += "Every error that Windlass raises is one of these; see [errors](errors.md).\n\n"
        elif hasattr(thing, "__struct_fields__"):
            text += fields(thing) + "\n"
        else:
            text += "".join(methods(name, thing))
    return text


def methods(name: str, kind: type) -> Iterator[str]:
    """The public methods of a class."""
    for method, body in inspect.getmembers(kind, inspect.isfunction):
        if method == "__init__":
            yield signature(f"wl.{name}", body) + (paragraphs(body.__doc__) + "\n" if body.__doc__ else "")
    for method, body in inspect.getmembers(kind, inspect.isfunction):
        if not method.startswith("_"):
            yield f"### {name}.{method}\n\n{signature(f'{name}.{method}', body)}{paragraphs(body.__doc__)}\n"


def signature(name: str, function: Any) -> str:
    """A call with its parameters, one a line, as an indented block."""
    lines = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        text = re.sub(r"<function .*>", "...", str(parameter)).replace("'", "", 2)
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in "".join(lines):
            lines.append("*")
        lines.append(text)
    return (
        f"    {name}(\n" + "".join(f"        {line},\n" for line in lines) + "    )\n\n"
        if lines
        else f"    {name}()\n\n"
    )


# The wire


def rest() -> str:
    """Every route of the callers' port, the admin port and the control socket, with its permission."""
    from windlass import plugins
    from windlass.serving import admin

    text = (
        "# Routes\n\n"
        "Every route says which permission it asks; there is none without one. On loopback, with no keys in the spec,\n"
        "a caller has `model:read` and `model:predict`. `health` routes ask for nothing. A key is sent as\n"
        "`Authorization: Bearer wl_...` or `X-Api-Key: wl_...`.\n\n"
        "Every answer carries `x-request-id`: the caller's own, if it sent one of 1 to 64 plain characters, else a\n"
        "new one. With a header `x-server-timing` (any value) an inference is answered with `server-timing`:\n"
        "milliseconds in the queue and in the run, and the rows that shared the run.\n\n"
    )
    for name in plugins.catalog()["protocols"]:
        protocol = plugins.load("protocols", name)
        about = paragraphs(sys.modules[protocol.__module__].__doc__).partition("\n")[0]
        text += f"## {name}\n\n{about}\n\n" + route_table(protocol().routes())
    nothing: Any = None
    text += "\n## Admin port\n\nOn loopback only; 8001 by default.\n\n"
    text += route_table(admin.Admin(nothing).routes())
    text += "\n## Control socket\n\nA unix socket of mode 0600 in the home: who can open it is the operator.\n\n"
    return text + route_table(admin.Control(nothing).routes())


def route_table(routes: Iterable[Any]) -> str:
    """Method, path and permission of each route."""
    rows = sorted((route.path, route.method, route.permission) for route in routes)
    return table(("method", "path", "permission"), ((m, code(p), code(q)) for p, m, q in rows)) + "\n"


def api() -> str:
    """Every route of the control plane's API."""
    from windlass.api import app, document

    return document.page(app.ROUTES)


def errors() -> str:
    """Each error: its code, exit code, status and meaning."""
    from windlass import errors as tree
    from windlass.protocols import errors as statuses

    def walk(kind: type[tree.WindlassError]) -> Iterator[type[tree.WindlassError]]:
        yield kind
        for child in kind.__subclasses__():
            if child.__module__ == tree.__name__:
                yield from walk(child)

    rows = [
        (
            code(kind.code),
            code(kind.__name__),
            kind.exit_code,
            statuses.status(kind("")),
            paragraphs(kind.__doc__).strip(),
        )
        for kind in walk(tree.WindlassError)
    ]
    rows[0] = (*rows[0][:4], "Any other failure, and the class that all of these are.")
    return (
        "# Errors\n\n"
        "One tree. The code is stable; the message says what happened and why, the hint what to do next.\n\n"
        + table(("code", "class (`windlass.errors`)", "exit code", "HTTP status", "meaning"), rows)
        + "\nThe command line exits with 0 when all went well, 130 when it was interrupted.\n\n"
        "A status of 500 is told with one general sentence: the details are in the server's log under the request id.\n"
        "503 and 429 carry `Retry-After`, 401 carries `WWW-Authenticate: Bearer`.\n\n"
        "| protocol | body of an error |\n| --- | --- |\n"
        '| plain | `{"error": {"code", "message", "hint", "request_id"}}` |\n'
        '| Open Inference Protocol, TensorFlow Serving | `{"error": "sentence"}` |\n'
    )


# Formats


def package() -> str:
    """The manifest's fields."""
    return (
        "# Package format\n\n"
        "A package is `manifest.json` and blobs named by their SHA-256: as a folder, the blobs lie below\n"
        "`blobs/sha256/`; as one `.windlass` file it is a ZIP archive, stored, of exactly what the manifest names.\n"
        "The SHA-256 of the manifest's canonical JSON (sorted keys, no spaces) is the package's identity. An unknown\n"
        "field, a repeated key or a NaN is refused.\n\n"
        + structs(
            "windlass.types.manifest",
            ("Manifest", "ModelSpec", "BlobRef", "TransformSpec", "Field", "Golden", "Sample", "Limits"),
        )
        + "\n"
        + structs("windlass.types.manifest", ("Card", "Lineage"))
        + "\n"
        + structs("windlass.types.signature", ("Signature", "TensorSpec", "Dimension"))
        + "\nDatatypes: "
        + ", ".join(code(name) for name in importlib.import_module("windlass.types.tensor").DTYPES)
        + ".\n"
    )


def serving_spec() -> str:
    """The serving spec's fields."""
    return (
        "# Serving spec\n\n"
        "A JSON document: all that a server is told. `windlass serve REF...` writes one; `windlass serve --spec FILE`\n"
        "takes one. [Serve from a spec](../how-to/serve-from-a-spec.md) shows it at work.\n\n"
        + structs("windlass.types.spec", ("Spec", "Endpoint", "Arm", "Key", "ServerLimits"))
    )


def deployment() -> str:
    """The keys of a deployment document."""
    return (
        "# Deployment document\n\n"
        "What `windlass deploy -f deployment.toml` reads, and what the API takes as JSON: one deployment, in TOML.\n"
        "An unknown key is refused, and the nearest one named.\n\n"
        + structs("windlass.desired.wishes", ("Wish",))
        + "\n`[strategy]` has `kind`, and beside it that strategy's own [parameters](strategies.md); in JSON they\n"
        'are an object `parameters`. A name alone, `strategy = "canary"`, leaves them at their defaults.\n\n'
        + structs("windlass.types.deployment", ("Serving",))
    )


def strategies() -> str:
    """The parameters of every strategy."""
    from windlass import plugins
    from windlass.rollout.strategies import base

    text = (
        "# Strategies\n\n"
        "How a release takes over: `windlass deploy REF --strategy KIND --set PARAMETER=VALUE`, or `[strategy]` in a\n"
        "[deployment document](deployment.md). Shares are percentages, times seconds.\n\n"
    )
    every = "[every strategy](#every-strategy)"
    for name in plugins.catalog()["strategies"]:
        kind = plugins.load("strategies", name)
        judged = issubclass(kind, base.Judged)
        about = paragraphs(sys.modules[kind.__module__].__doc__).partition("\n")[0]
        text += f"## {name}\n\n{about}\n\n{paragraphs(kind.__doc__)}\n"
        text += fields(kind, beyond=base.Judged if judged else base.Strategy)
        text += f"\nBeside these: {'[comparing requests](#comparing-requests), ' if judged else ''}{every}.\n\n"
    text += f"## Every strategy\n\n{paragraphs(base.Strategy.__doc__)}\n{fields(base.Strategy)}\n"
    text += f"## Comparing requests\n\n{paragraphs(base.Judged.__doc__)}\n{fields(base.Judged, beyond=base.Strategy)}\n"
    return text + structs("windlass.types.spec", ("Pin",)) + "\n" + structs("windlass.rollout.evidence", ("Guard",))


def transforms() -> str:
    """The parameters of every transform."""
    from windlass import plugins

    text = (
        "# Transforms\n\n"
        "Parameters and files only, never code. `pre` transforms turn what people send into the model's inputs;\n"
        "`post` transforms turn the model's outputs into what people read. Programs that send tensors pass them by.\n\n"
    )
    for name in TRANSFORMS:
        kind = plugins.load("transforms", name)
        owner = importlib.import_module(kind.__module__)
        text += f"## {name}\n\n{paragraphs(owner.__doc__).partition(chr(10))[0]} Stage: `{kind.stage}`.\n\n"
        text += f"{paragraphs(kind.__doc__)}\n{paragraphs(owner.Parameters.__doc__)}\n{fields(owner.Parameters)}\n"
        if hasattr(owner, "Column"):
            text += structs(owner.__name__, ("Column",), "###") + "\n"
    return text


# Operation


def settings() -> str:
    """Every setting with its environment variable and default."""
    from windlass import settings as settings_

    def rows() -> Iterator[tuple[str, str, str]]:
        for name, default in settings_.keys().items():
            yield code(name), code(settings_.PREFIX + name.replace(".", "__").upper()), code(default)

    return (
        "# Settings\n\n"
        "From `windlass.toml` in the current folder (or `--config FILE`), then the environment, then the command's\n"
        "options, in rising order. An unknown setting is an error that names the nearest one.\n\n"
        + table(("setting", "environment", "default"), rows())
        + "\n"
        + "\n".join(
            f"`{name.lower()}`: {paragraphs(getattr(settings_, name).__doc__)}"
            for name in ("Registry", "Serve", "Up", "Policy", "Client")
        )
        + "\nThe settings as a whole: "
        + paragraphs(settings_.Settings.__doc__).partition(". ")[2]
    )


def metrics() -> str:
    """The names of the metrics."""
    from windlass import telemetry

    rows = [
        (code(m.name), ", ".join(code(label) for label in m.labels), m.help)
        for m in vars(telemetry).values()
        if isinstance(m, telemetry.Metric)
    ]
    return (
        "# Metrics\n\n"
        "In Prometheus' text format at `/metrics` on the admin port, over all workers. `variant` is the arm that\n"
        "answered, empty where an endpoint has one only. The `nv_inference_` names are Triton's, for dashboards that\n"
        "ask for them.\n\n" + table(("name", "labels", "meaning"), rows)
    )


PAGES: dict[str, Callable[[], str]] = {
    "cli": cli,
    "python": python,
    "rest": rest,
    "api": api,
    "errors": errors,
    "package-format": package,
    "serving-spec": serving_spec,
    "deployment": deployment,
    "strategies": strategies,
    "transforms": transforms,
    "settings": settings,
    "metrics": metrics,
}


def current(name: str) -> str:
    """A page as the code is now."""
    note = "<!-- Written by scripts/reference.py: change the code, then run `make reference`. -->\n\n"
    return note + re.sub(r"\n{3,}", "\n\n", PAGES[name]()).rstrip() + "\n"


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        (FOLDER / f"{name}.md").write_text(current(name))
        print(f"wrote {name}.md")


if __name__ == "__main__":
    main()
