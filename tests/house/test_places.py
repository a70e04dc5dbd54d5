"""Rules 3 and 6, and what no file may do: libraries, the environment, statuses and metric names in their places."""

from __future__ import annotations

import ast
import fnmatch
import http
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

# Where each third-party library may be imported; one that is not listed may be imported nowhere.
PLACES: dict[str, tuple[str, ...]] = {
    "numpy": (
        "types/*",
        "runtimes/*",
        "transforms/*",
        "protocols/*",
        "packaging/*",
        "serving/*",
        "client/*",
        "cli/*",
        "sdk.py",
        "statistics/*",
        "rollout/*",
        "optimization/*",
    ),
    "msgspec": ("*",),
    "orjson": ("types/*", "protocols/*", "client/*", "serving/*"),
    "google": ("protocols/pb/messages.py",),
    "simdjson": ("types/*", "protocols/*"),
    "onnxruntime": ("runtimes/onnx.py", "optimization/*"),
    "tokenizers": ("transforms/tokenizer.py",),
    "PIL": ("transforms/image.py", "cli/demo_models.py"),
    "uvloop": ("serving/*", "client/load.py", "client/processes.py", "client/witness.py"),
    "httptools": ("serving/*", "client/http_connection.py"),
    "hpack": ("serving/*", "client/grpc_connection.py"),
    "sqlalchemy": ("storage/*", "records/*", "registry/*", "controller/*"),
    "alembic": ("storage/*", "registry/*"),
    "psycopg": ("storage/*",),
    "fsspec": ("storage/*",),
    "click": ("cli/*",),
    "rich": ("cli/*",),
    "httpx": ("client/*", "controller/webhooks.py"),
    "fastapi": ("api/*",),
    "starlette": ("api/*",),
    "uvicorn": ("api/*", "cli/up.py"),
    "h11": ("api/connections.py",),
    "cryptography": ("security/*",),
    "onnx": ("packaging/*", "optimization/*"),
    "optuna": ("optimization/search_optuna.py",),
    "openvino": ("optimization/peers/openvino.py",),
    "torch_pruning": ("optimization/techniques/prune_structural.py",),
    "onnx_ir": ("packaging/*",),
    "onnxscript": ("packaging/*",),
    "torch": (
        "packaging/capture/*",
        "runtimes/torch_program.py",
        "optimization/training/*",
        "optimization/techniques/*",
        "optimization/eager.py",
        "cli/demo_models.py",
        "cli/life_models.py",
    ),
    "transformers": ("packaging/capture/huggingface.py",),
    "safetensors": ("packaging/capture/huggingface.py",),
    "skl2onnx": ("packaging/capture/*",),
    "sklearn": ("packaging/capture/*", "cli/demo_models.py", "cli/life_models.py"),
    "xgboost": ("packaging/capture/xgboost.py",),
    "lightgbm": ("packaging/capture/lightgbm.py",),
    "joblib": ("packaging/capture/*",),
    "pyarrow": ("packaging/parquet.py",),
    "pandas": ("packaging/capture/sklearn.py",),
}
# What turns bytes into running code. A capture source reads such files, and only inside its sandboxed child.
CODE_CARRIERS = frozenset(
    {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "runpy", "code"}
)
# `security/confine.py` is what raises the walls of that child, then starts the module it is for.
CARRIER_PLACES = ("packaging/capture/*", "security/confine.py")
FORBIDDEN_CALLS = frozenset({"eval", "exec", "compile", "__import__"})
FORBIDDEN_METHODS = {
    ("os", "system"),
    ("os", "popen"),
    ("tarfile", "open"),
    ("shutil", "unpack_archive"),
    ("asyncio", "create_subprocess_shell"),
    ("tempfile", "mktemp"),
}
STATUS_ROOMS = ("protocols/*", "serving/*", "client/*", "api/*", "remote/*", "controller/*")
STATUSES = frozenset(int(status) for status in http.HTTPStatus if status >= 400)
METRIC = re.compile(r"^(nv_inference_|windlass_\w+_(total|count|seconds|bytes|ratio|info|rows|requests)$)")


def within(path: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(path, glob) for glob in globs)


def misplaced_library(source: Any) -> list[str]:
    found = set()
    for node, full in source.imports():
        top = full.split(".")[0]
        if top in ("windlass", "__future__", "None") or top in sys.stdlib_module_names:
            continue
        if not within(source.path, PLACES.get(top, ())):
            found.add(f"{source.at(node)} imports {top}")
    return sorted(found)


def code_carrier(source: Any) -> list[str]:
    return sorted(
        {
            f"{source.at(node)} imports {full.split('.')[0]}"
            for node, full in source.imports()
            if full.split(".")[0] in CODE_CARRIERS and not within(source.path, CARRIER_PLACES)
        }
    )


def asserts(source: Any) -> list[str]:
    return [f"{source.at(node)} checks by assert" for node in ast.walk(source.tree) if isinstance(node, ast.Assert)]


def runs_text(source: Any) -> list[str]:
    """Calls that turn text into code, start a shell, or unpack an archive by its own names."""
    found = []
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        callee = node.func
        shell = any(
            k.arg == "shell" and not (isinstance(k.value, ast.Constant) and not k.value.value) for k in node.keywords
        )
        by_name = isinstance(callee, ast.Name) and callee.id in FORBIDDEN_CALLS
        by_method = isinstance(callee, ast.Attribute) and (
            callee.attr in ("extractall", "extract")
            or (isinstance(callee.value, ast.Name) and (callee.value.id, callee.attr) in FORBIDDEN_METHODS)
        )
        if shell or by_name or by_method:
            found.append(f"{source.at(node)} calls {ast.unparse(callee)}")
    return found


def environment(source: Any) -> list[str]:
    # The package's first line sets one variable for a library that it has not imported yet.
    if source.path in ("settings.py", "__init__.py"):
        return []
    return [
        f"{source.at(node)} reads the environment"
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv"))
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and any("env" in a.name for a in node.names))
    ]


def status_code(source: Any) -> list[str]:
    if not within(source.path, STATUS_ROOMS) or source.path in ("protocols/errors.py", "api/errors.py"):
        return []
    return [
        f"{source.at(node)} has a status of its own"
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Constant) and type(node.value) is int and node.value in STATUSES)
        or (isinstance(node, ast.Name | ast.Attribute) and "HTTPStatus" in ast.unparse(node))
    ]


def metric_name(source: Any) -> list[str]:
    if source.path == "telemetry.py":
        return []
    return [
        f"{source.at(node)} names the metric {node.value}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and METRIC.match(node.value)
    ]


RULES: list[tuple[Callable[[Any], list[str]], str, str]] = [
    (misplaced_library, "serving/worker.py", "import torch\n"),
    (misplaced_library, "runtimes/echo.py", "import onnxruntime as ort\n"),
    (misplaced_library, "types/a.py", "from sqlalchemy import orm\n"),
    (misplaced_library, "types/a.py", "def f():\n    import requests\n"),
    (code_carrier, "serving/worker.py", "import pickle\n"),
    (code_carrier, "storage/blobs.py", "from joblib import load\n"),
    (asserts, "a.py", "assert 1\n"),
    (runs_text, "a.py", "eval('1')\n"),
    (runs_text, "a.py", "import subprocess\nsubprocess.run('ls', shell=True)\n"),
    (runs_text, "a.py", "import os\nos.system('ls')\n"),
    (runs_text, "a.py", "def f(archive):\n    archive.extractall('.')\n"),
    (environment, "serving/a.py", "import os\nx = os.environ['A']\n"),
    (environment, "serving/a.py", "from os import getenv\n"),
    (status_code, "serving/a.py", "status = 503\n"),
    (status_code, "protocols/a.py", "import http\nx = http.HTTPStatus.NOT_FOUND\n"),
    (metric_name, "serving/a.py", "x = 'windlass_requests_total'\n"),
]
ALLOWED: list[tuple[Callable[[Any], list[str]], str, str]] = [
    (misplaced_library, "runtimes/onnx.py", "import onnxruntime\nimport json\nfrom windlass import errors\n"),
    (code_carrier, "packaging/capture/sklearn.py", "import joblib\n"),
    (runs_text, "a.py", "import subprocess\nsubprocess.run(['ls'], shell=False)\n"),
    (environment, "settings.py", "import os\nx = os.environ['A']\n"),
    (status_code, "protocols/errors.py", "NOT_READY = 503\n"),
    (status_code, "serving/a.py", "size = 512\n"),
    (metric_name, "telemetry.py", "x = 'windlass_requests_total'\n"),
]
PROVES = {
    code_carrier: [pytest.mark.promise("P-05"), pytest.mark.threat("V14"), pytest.mark.threat("F1")],
    asserts: [pytest.mark.threat("V21")],
    runs_text: [pytest.mark.promise("P-07"), pytest.mark.threat("V11")],
}


@pytest.mark.parametrize(
    "rule",
    [pytest.param(r, marks=PROVES.get(r, []), id=r.__name__) for r in dict.fromkeys(rule for rule, _, _ in RULES)],
)
def test_the_product_keeps(rule: Callable[[Any], list[str]], sources: list[Any]) -> None:
    assert "\n".join(finding for source in sources for finding in rule(source)) == ""


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
