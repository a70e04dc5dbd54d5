"""Rule 1: each floor imports only from below, there is no circle, and plugins know `base` and never each other."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN_FOLDERS = (
    "runtimes",
    "transforms",
    "protocols",
    "packaging/capture",
    "rollout/strategies",
    "targets",
    "optimization/techniques",
    "optimization/peers",
)


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; from importlinter.cli import lint_imports_command as c; c(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-logo", "--no-cache", "--config", str(root / "pyproject.toml")],
        cwd=root / "src",
        env={"PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_floors_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("errors.py", "from windlass.types import tensor"),
        ("types/tensor.py", "from windlass.serving.scheduling import batcher"),
        ("protocols/base.py", "from windlass.runtimes import base"),
        ("registry/__init__.py", "from windlass.client import inference"),
    ],
)
def test_an_upward_import_is_refused(tmp_path: Path, file: str, line: str) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    target = tmp_path / "src" / "windlass" / file
    target.write_text(f"{target.read_text()}\n{line}\n")
    module = line.split()[1].removeprefix("windlass.")
    missing = tmp_path / "src" / "windlass" / module.replace(".", "/") / f"{line.split()[-1]}.py"
    missing.touch()
    done = lint_imports(tmp_path)
    assert done.returncode != 0
    assert "BROKEN" in done.stdout


def plugin_modules() -> set[str]:
    catalog = tomllib.loads((ROOT / "src" / "windlass" / "catalog.toml").read_text())
    return {line["object"].partition(":")[0] for entries in catalog.values() for line in entries.values()}


def sibling_imports(source: Any, plugins: set[str]) -> list[str]:
    """Imports of a plugin by a file of the same plugin folder."""
    folder = source.path.rpartition("/")[0]
    if folder not in PLUGIN_FOLDERS:
        return []
    prefix = f"windlass.{folder.replace('/', '.')}."
    own = f"windlass.{source.module}"
    named = {
        (source.at(node), module)
        for node, full in source.imports()
        for module in plugins
        if module.startswith(prefix) and module != own and (full == module or full.startswith(f"{module}."))
    }
    return [f"{where} imports its sibling {module}" for where, module in sorted(named)]


def test_siblings_do_not_know_each_other(sources: list[Any]) -> None:
    plugins = plugin_modules()
    assert "\n".join(finding for source in sources for finding in sibling_imports(source, plugins)) == ""


def test_a_sibling_import_is_found(snippet: Callable[[str, str], Any]) -> None:
    plugins = {"windlass.runtimes.onnx", "windlass.runtimes.echo"}
    bad = snippet("runtimes/echo.py", "from windlass.runtimes import base, onnx\n")
    assert len(sibling_imports(bad, plugins)) == 1
    worse = snippet("runtimes/echo.py", "import windlass.runtimes.onnx\n")
    assert len(sibling_imports(worse, plugins)) == 1
    good = snippet("runtimes/echo.py", "from windlass.runtimes import base\n")
    assert sibling_imports(good, plugins) == []


def name_imports(source: Any, is_module: Callable[[str], bool]) -> list[str]:
    """`from windlass.room.file import Name` in another room: modules are imported across rooms, not names."""
    room = source.module.split(".")[0]
    findings = []
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("windlass"):
            continue
        other = [*(node.module or "").split("."), ""][1]
        findings += [
            f"{source.at(node)} imports the name '{alias.name}' from {node.module}"
            for alias in node.names
            if other != room and not is_module(f"{node.module}.{alias.name}")
        ]
    return findings


def on_disk(module: str) -> bool:
    path = ROOT / "src" / Path(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def test_modules_are_imported_across_rooms(sources: list[Any]) -> None:
    assert "\n".join(finding for source in sources for finding in name_imports(source, on_disk)) == ""


def test_an_imported_name_is_found(snippet: Callable[[str, str], Any]) -> None:
    bad = snippet("serving/door/door.py", "from windlass.types.spec import Spec\nfrom windlass.types import spec\n")
    assert len(name_imports(bad, {"windlass.types.spec"}.__contains__)) == 1


def relative_imports(source: Any) -> list[str]:
    return [
        f"{source.at(node)} imports relatively"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def test_imports_are_absolute(sources: list[Any], snippet: Callable[[str, str], Any]) -> None:
    assert relative_imports(snippet("a.py", "from . import b\n"))
    assert "\n".join(finding for source in sources for finding in relative_imports(source)) == ""
