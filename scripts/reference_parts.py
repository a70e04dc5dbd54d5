"""The pieces that reference pages are made of: tables, and structs as tables of their fields, in Markdown.

Used by reference.py. Must never know a page.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    every = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |\n" for row in every)


def code(text: object) -> str:
    """Text as code; nothing for nothing."""
    return f"`{text}`" if str(text) else ""


def paragraphs(text: str | None) -> str:
    """A docstring without its indentation."""
    return inspect.cleandoc(text or "") + "\n"


def type_name(kind: Any) -> str:
    """A type as `msgspec.inspect` describes it, in words."""
    name = type(kind).__name__
    if name == "LiteralType":
        return " \\| ".join(repr(value).replace("'", '"') for value in kind.values).replace("\\|", "or")
    if name == "UnionType":
        return " or ".join(type_name(part) for part in kind.types)
    if name in ("VarTupleType", "ListType"):
        return f"list of {type_name(kind.item_type)}"
    if name == "DictType":
        return f"object: {type_name(kind.key_type)} to {type_name(kind.value_type)}"
    if name == "StructType":
        return kind.cls.__name__
    simple = {
        "StrType": "text",
        "IntType": "integer",
        "FloatType": "number",
        "BoolType": "true or false",
        "NoneType": "null",
    }
    bounds = [
        f"{word} {getattr(kind, bound)}"
        for bound, word in (("ge", "at least"), ("le", "at most"))
        if getattr(kind, bound, None) is not None
    ]
    if getattr(kind, "min_length", None):
        bounds.append("not empty")
    return ", ".join([simple.get(name, "any"), *bounds])


def fields(kind: Any, beyond: Any = None) -> str:
    """A struct's fields with types and defaults; those only that it has or sets beyond another struct, if one is given.

    Empty where there are none.
    """
    known = {} if beyond is None else {f.encode_name: shown(f.default) for f in msgspec.structs.fields(beyond)}
    rows = []
    for field in msgspec.inspect.type_info(kind).fields:
        if field.required:
            default = "required"
        else:
            value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            default = "" if hasattr(value, "__struct_fields__") else code(shown(value))
        if field.required or known.get(field.encode_name) != shown(value):
            rows.append((code(field.encode_name), type_name(field.type), default))
    return table(("field", "type", "default"), rows) if rows else ""


def shown(value: Any) -> str:
    """A default value as JSON has it."""
    return msgspec.json.encode(value).decode()


def structs(module: str, names: Sequence[str], level: str = "##") -> str:
    """A section for each struct of a module."""
    owner = importlib.import_module(module)
    found = [getattr(owner, name) for name in names]
    return "\n".join(f"{level} {kind.__name__}\n\n{paragraphs(kind.__doc__)}\n{fields(kind)}" for kind in found)
