"""Rules 4, 5, 7 and 8: the size of files and functions, their names, docstrings, imports at the top, frozen values."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

MAX_LINES = 400
MAX_FUNCTION = 60
MAX_PARAMETERS = 8
MAX_CLI_PARAMETERS = 12
# At most three hot loops may be longer than a function may be; each is named here with its reason.
LONG_FUNCTIONS: dict[str, str] = {}
# Not values but the state of something that goes on (a request, a load); everything else that holds data is frozen.
STATE = frozenset(
    {
        "serving/transport/exchange.py:Exchange",
        "serving/transport/question.py:Question",
        "serving/door/heads.py:Permit",
        "serving/door/heads.py:RequestHead",
        "serving/transport/http2_streams.py:Stream",
        "types/inference.py:Call",
    }
)
EMPTY_NAMES = re.compile(r"(util|helper|manager|handler|tool)s?|common|engine|misc|core|shared|lib|stuff|impl")
GENERATED = ("/pb/", "/migrations/")
PLUGIN_FOLDERS = (
    "runtimes/",
    "transforms/",
    "protocols/",
    "packaging/capture/",
    "rollout/strategies/",
    "targets/",
    "optimization/techniques/",
    "optimization/peers/",
)
# What is loaded only when it is needed because loading costs more than the command it is part of: file -> modules.
LATE_IMPORTS: dict[str, tuple[str, ...]] = {
    "cli/planes.py": ("windlass.client", "windlass.desired", "windlass.packaging", "windlass.remote"),
    "optimization/eager.py": ("torch",),
    "packaging/capture/huggingface.py": ("windlass.packaging.capture",),
    "packaging/capture/torch_export.py": ("windlass.packaging.capture",),
    "packaging/capture/torch_module.py": ("windlass.packaging.capture",),
    "packaging/capture/torchscript.py": ("windlass.packaging.capture",),
    "storage/database.py": ("windlass.storage.migrations",),
    "storage/remote_volume.py": ("fsspec",),
}
# Rooms that never look at a clock: what they do depends on what they are given.
CLOCKLESS = ("types/", "transforms/", "protocols/", "runtimes/", "statistics/", "rollout/")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def generated(source: Any) -> bool:
    return any(part in f"/{source.path}" for part in GENERATED)


def functions(source: Any) -> Iterator[Function]:
    return (node for node in ast.walk(source.tree) if isinstance(node, Function))


def long_file(source: Any) -> list[str]:
    lines = len(source.text.splitlines())
    return [] if lines <= MAX_LINES or generated(source) else [f"{source.path} has {lines} lines"]


def long_function(source: Any) -> list[str]:
    found = []
    for function in functions(source):
        lines = (function.end_lineno or 0) - function.lineno + 1
        if lines > MAX_FUNCTION and f"{source.path}:{function.name}" not in LONG_FUNCTIONS and not generated(source):
            found.append(f"{source.at(function)} {function.name} has {lines} lines")
    return found


def many_parameters(source: Any) -> list[str]:
    limit = MAX_CLI_PARAMETERS if source.path.startswith("cli/") else MAX_PARAMETERS
    found = []
    for function in functions(source):
        args = function.args
        names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs) if a.arg not in ("self", "cls")]
        if len(names) > limit:
            found.append(f"{source.at(function)} {function.name} has {len(names)} parameters")
    return found


def empty_name(source: Any) -> list[str]:
    parts = source.path.removesuffix(".py").split("/")
    return [f"{source.path}: '{part}' says nothing" for part in parts if EMPTY_NAMES.fullmatch(part.strip("_"))]


def no_docstring(source: Any) -> list[str]:
    if generated(source) or not source.tree.body:
        return []
    text = ast.get_docstring(source.tree) or ""
    return [] if text.split("\n")[0].endswith((".", ":", "?", "`")) else [f"{source.path} opens with no sentence"]


def type_checking(source: Any) -> list[str]:
    return [
        f"{source.at(node)} uses TYPE_CHECKING"
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Name) and node.id == "TYPE_CHECKING")
        or (isinstance(node, ast.Attribute) and node.attr == "TYPE_CHECKING")
    ]


def may_be_late(source: Any, node: ast.Import | ast.ImportFrom) -> bool:
    """In a plugin, a third party's library or a file beside it that is built on one; or one of `LATE_IMPORTS`."""
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    beside = f"windlass.{source.module.rpartition('.')[0]}"
    heavy = all(
        module.startswith(beside) or module.split(".")[0] not in {"windlass", *sys.stdlib_module_names}
        for module in modules
    )
    plugin = source.path.startswith(PLUGIN_FOLDERS)
    return (plugin and heavy) or set(modules) <= set(LATE_IMPORTS.get(source.path, ()))


def nested_import(source: Any) -> list[str]:
    """Imports inside functions; only the lazy doors and a plugin's own heavy library may."""
    if source.path in ("__init__.py", "plugins.py", "cli/main.py"):
        return []
    return sorted(
        {
            f"{source.at(node)} imports inside {function.name}"
            for function in functions(source)
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom) and not may_be_late(source, node)
        }
    )


def last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def is_true(keywords: list[ast.keyword], name: str) -> bool:
    return any(k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is True for k in keywords)


def mutable_value(source: Any) -> list[str]:
    """A struct or dataclass that is not frozen."""
    found = []
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        struct = any(last_name(b) == "Struct" for b in node.bases) and not is_true(node.keywords, "frozen")
        plain = any(last_name(d) == "dataclass" for d in node.decorator_list)
        called = any(
            isinstance(d, ast.Call) and last_name(d.func) == "dataclass" and not is_true(d.keywords, "frozen")
            for d in node.decorator_list
        )
        if (struct or plain or called) and f"{source.path}:{node.name}" not in STATE:
            found.append(f"{source.at(node)} {node.name} is not frozen")
    return found


def reads_clock(source: Any) -> list[str]:
    """A call of a clock where time must be given; naming a clock as a default parameter is giving it."""
    if not source.path.startswith(CLOCKLESS):
        return []
    return [
        f"{source.at(node)} reads a clock"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and last_name(node.func.value) in ("time", "datetime", "date")
        and node.func.attr
        in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "now", "utcnow", "today")
    ]


LONG_BODY = "def f():\n" + "    x = 1\n" * 60
RULES: list[tuple[Callable[[Any], list[str]], str, str]] = [
    (long_file, "a.py", "x = 1\n" * 401),
    (long_file, "tests/unit/test_a.py", "x = 1\n" * 401),
    (long_function, "a.py", LONG_BODY),
    (many_parameters, "a.py", "def f(a, b, c, d, e, f, g, *, h, i): ...\n"),
    (many_parameters, "cli/a.py", "def f(a, b, c, d, e, f, g, h, i, j, k, l, m): ...\n"),
    (empty_name, "serving/utils.py", ""),
    (empty_name, "core/x.py", ""),
    (no_docstring, "a.py", "x = 1\n"),
    (no_docstring, "a.py", '"""no sentence"""\nx = 1\n'),
    (type_checking, "a.py", "import typing\nif typing.TYPE_CHECKING:\n    pass\n"),
    (type_checking, "a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\n"),
    (nested_import, "serving/a.py", "def f():\n    import onnxruntime\n"),
    (nested_import, "runtimes/a.py", "def f():\n    from windlass.types import tensor\n"),
    (nested_import, "runtimes/a.py", "def f():\n    import json\n"),
    (nested_import, "packaging/capture/a.py", "def f():\n    from windlass.packaging import parity\n"),
    (mutable_value, "a.py", "import msgspec\nclass A(msgspec.Struct):\n    x: int\n"),
    (mutable_value, "a.py", "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\n"),
    (mutable_value, "a.py", "from dataclasses import dataclass\n@dataclass(slots=True)\nclass A:\n    x: int\n"),
    (reads_clock, "types/a.py", "import time\nx = time.time()\n"),
    (reads_clock, "protocols/a.py", "import datetime\nx = datetime.datetime.now()\n"),
]
ALLOWED: list[tuple[Callable[[Any], list[str]], str, str]] = [
    (long_file, "protocols/pb/a.py", "x = 1\n" * 401),
    (many_parameters, "cli/a.py", "def f(a, b, c, d, e, f, g, h, i, j, k, l): ...\n"),
    (nested_import, "runtimes/a.py", "def f():\n    import onnxruntime\n"),
    (nested_import, "packaging/capture/a.py", "def f():\n    from windlass.packaging.capture import onnx_graph\n"),
    (nested_import, "cli/main.py", "def f():\n    from windlass.cli import serve\n"),
    (mutable_value, "a.py", "import msgspec\nclass A(msgspec.Struct, frozen=True):\n    x: int\n"),
    (reads_clock, "types/a.py", "import time\ndef f(clock=time.monotonic):\n    return clock()\n"),
    (no_docstring, "a/__init__.py", ""),
]


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _, _ in RULES), ids=lambda rule: rule.__name__)
def test_the_product_keeps(rule: Callable[[Any], list[str]], sources: list[Any]) -> None:
    assert "\n".join(finding for source in sources for finding in rule(source)) == ""


def test_no_test_benchmark_or_script_is_long(sources_around: list[Any]) -> None:
    assert {source.path.partition("/")[0] for source in sources_around} == {"tests", "benchmarks", "scripts"}
    assert "\n".join(finding for source in sources_around for finding in long_file(source)) == ""


@pytest.mark.parametrize(("rule", "path", "text"), RULES)
def test_the_rule_can_fail(
    rule: Callable[[Any], list[str]], path: str, text: str, snippet: Callable[[str, str], Any]
) -> None:
    assert rule(snippet(path, text)) != []


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_the_rule_spares(
    rule: Callable[[Any], list[str]], path: str, text: str, snippet: Callable[[str, str], Any]
) -> None:
    assert rule(snippet(path, text)) == []


def test_the_long_functions_are_few() -> None:
    assert len(LONG_FUNCTIONS) <= 3
