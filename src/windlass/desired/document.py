"""The file `deployment.toml`: one deployment, in the words of `Wish`.

Read by `windlass deploy -f` and by whoever keeps deployments in a repository. Must never take an unknown key in
silence, nor guess what a value means.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from typing import Any

import msgspec

from windlass import errors
from windlass.desired import wishes
from windlass.types import deployment

MAX_BYTES = 65_536
_EXAMPLE = 'name = "fraud"\nref = "fraud@4"\n\n[strategy]\nkind = "canary"'


def parse(data: bytes | str) -> wishes.Wish:
    """The wish that a document makes; `UsageError` says which key is wrong, and names the nearest one.

    The keys are those of `Wish`. In `[strategy]`, `kind` names the strategy and every other key is its parameter.
    """
    document = _read(data)
    for key, kind in (("", wishes.Wish), ("serving", deployment.Serving)):
        part = document.get(key, {}) if key else document
        if not isinstance(part, dict):
            raise errors.UsageError(f"'{key}' is a table.", hint=f"Write [{key}] and its keys below.")
        _known(part, kind.__struct_fields__, key)
    for key in ("name", "ref"):
        if key not in document:
            raise errors.UsageError(f"the document lacks '{key}'.", hint=f"The least that there is:\n{_EXAMPLE}")
    made: Mapping[str, Any] = {**document, "strategy": _strategy(document.get("strategy", "recreate"))}
    try:
        return wishes.check(msgspec.convert(made, wishes.Wish))
    except msgspec.ValidationError as e:
        raise errors.UsageError(f"the document is wrong: {_where(str(e))}.", hint="Mend it, and try again.") from None


def _read(data: bytes | str) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise errors.UsageError(f"the document is longer than {MAX_BYTES} bytes.", hint="One deployment a document.")
    try:
        return tomllib.loads(data.decode() if isinstance(data, bytes) else data)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise errors.UsageError(f"the document is not valid TOML: {e}.", hint=f"Example:\n{_EXAMPLE}") from None


def _strategy(table: Any) -> dict[str, Any]:
    """`{"kind": .., "parameters": {..}}`; a bare text is a kind without parameters."""
    if isinstance(table, str):
        return {"kind": table}
    if not isinstance(table, dict):
        raise errors.UsageError("'strategy' is a table or the name of one.", hint='Write strategy = "canary".')
    kind = table.get("kind")
    if not isinstance(kind, str):
        raise errors.UsageError("[strategy] lacks 'kind'.", hint='Write kind = "canary", or another strategy.')
    return {"kind": kind, "parameters": {key: value for key, value in table.items() if key != "kind"}}


def _known(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            named = f"{where}.{key}" if where else key
            hint = f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."
            raise errors.UsageError(f"the document has an unknown key '{named[:80]}'.", hint=hint)


def _where(text: str) -> str:
    """msgspec's words, without its dollar."""
    return text.replace("`$.", "`").replace("`$`", "it").rstrip(".")
