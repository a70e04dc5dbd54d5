"""Rule 10: public names, options, routes, error codes and columns are lists; changing one is a decision."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("frozen", ROOT / "scripts" / "frozen.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


frozen = load_script()


def changes(kept: str, now: str) -> list[str]:
    before, after = set(kept.splitlines()), set(now.splitlines())
    return [f"gone: {line}" for line in sorted(before - after)] + [f"new: {line}" for line in sorted(after - before)]


@pytest.mark.parametrize("name", frozen.LISTS)
def test_the_list_is_kept(name: str) -> None:
    kept = (frozen.FOLDER / f"{name}.txt").read_text()
    found = changes(kept, frozen.current(name))
    assert found == [], "a caller may rely on this; if the change is meant, run `make frozen` and read the diff"


def test_a_change_is_found() -> None:
    assert changes("a\nb\n", "b\nc\n") == ["gone: a", "new: c"]
