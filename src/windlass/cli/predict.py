"""`windlass predict`: asks a model, whether a server answers for it or it only lies in the registry.

Must never start a server that stays: without one, the version is loaded, asked once, and gone.
"""

from __future__ import annotations

import sys
import urllib.parse
from pathlib import Path
from typing import Any

import click
import msgspec

from windlass import errors, references
from windlass.cli import output
from windlass.client import control
from windlass.client import inference as clients
from windlass.serving import launch
from windlass.types import refs, spec

_MEDIA = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".txt": "text/plain",
}


@click.command()
@click.argument("target", metavar="REF|URL")
@click.argument("text", required=False)
@click.option("--input", "path", help="A file to send: .json, .csv, .png, .jpg, .txt; - reads stdin.")
@click.option("--media-type", default="", help="What the input is, where its name does not say.")
@click.option("--key", default="", help="An API key, for servers that ask for one.")
@click.pass_obj
def predict(
    context: output.Context, target: str, text: str | None, path: str | None, media_type: str, key: str
) -> None:
    """Ask a model with TEXT, or with a file.

    REF asks a running server of this home if one has the model, and loads the version for this one question if none
    does. URL is http://host:port/NAME.
    """
    if (text is None) == (path is None):
        raise errors.UsageError(
            "Give the text to send, or --input FILE.", hint="Example: windlass predict minilm 'hello'"
        )
    body, kind = (text.encode(), "text/plain") if text is not None else _read(str(path), media_type)
    kind = media_type or kind
    key = key or context.settings.client.key
    if target.startswith(("http://", "https://")):
        parts = urllib.parse.urlsplit(target)
        name = parts.path.strip("/").removeprefix("predict/")
        if not name:
            raise errors.UsageError(f"{target} names no model.", hint=f"Write {target.rstrip('/')}/NAME")
        predictions = _ask(f"{parts.scheme}://{parts.netloc}", name, body, kind, key)
    else:
        predictions = _ask_here(context, target, body, kind, key)
    context.result(predictions, lambda: _text(predictions))


def _ask(url: str, name: str, body: bytes, kind: str, key: str) -> list[dict[str, Any]]:
    with clients.Client(url, key=key) as client:
        try:
            return client.predict(name, body, media_type=kind)
        except errors.NotAllowed as e:
            if key:
                raise
            raise errors.NotAllowed(
                e.message, hint="Give --key, or set WINDLASS_CLIENT__KEY. A new one: windlass keys create NAME"
            ) from None


def _ask_here(context: output.Context, target: str, body: bytes, kind: str, key: str) -> list[dict[str, Any]]:
    ref = refs.parse(target)
    for wanted in launch.running(context.settings.home):
        talk = control.Control(wanted.control)
        try:
            # A managed server's endpoints are those that it was given since it began.
            endpoints = talk.current().endpoints if wanted.managed else wanted.endpoints
            if ref.kind == "default" and any(e.name == ref.name for e in endpoints):
                return _ask(talk.status()["addresses"]["listen"], ref.name, body, kind, key)
        finally:
            talk.close()
    context.say(f"no server of this home has {target}: loading it for this one question")
    endpoints = references.endpoints(context.settings, [target])
    wanted = spec.Spec(endpoints=endpoints, listen="127.0.0.1:0", admin="127.0.0.1:0")
    with launch.Server(wanted, context.settings.home) as server:
        return _ask(server.url, endpoints[0].name, body, kind, "")


def _read(path: str, media_type: str) -> tuple[bytes, str]:
    if path == "-":
        return sys.stdin.buffer.read(), media_type or "application/json"
    file = Path(path)
    if not file.exists() or file.is_dir():
        raise errors.NotFound(
            f"There is no file {path}.", hint="Check the path given with --input, or write - for stdin."
        )
    kind = media_type or _MEDIA.get(file.suffix.lower(), "")
    if not kind:
        raise errors.UsageError(f"'{file.suffix}' does not say what {path} is.", hint="Say it with --media-type.")
    return file.read_bytes(), kind


def _text(predictions: list[dict[str, Any]]) -> str:
    return "\n".join(_line(prediction) for prediction in predictions)


def _line(prediction: dict[str, Any]) -> str:
    """One prediction on one line; long vectors are cut."""
    parts = []
    for name, value in prediction.items():
        if isinstance(value, list) and len(value) > 8:
            value = (
                f"[{', '.join(f'{v:.4g}' if isinstance(v, float) else str(v) for v in value[:4])}, ... {len(value)}]"
            )
        elif isinstance(value, float):
            value = f"{value:.4g}"
        elif isinstance(value, dict):
            value = ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
        elif not isinstance(value, str):
            value = msgspec.json.encode(value).decode()
        parts.append(f"{name}: {value}")
    return "  ".join(parts)
