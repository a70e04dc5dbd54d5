"""Rule 11: the reference pages are what the code says now."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "scripts"))
    spec.loader.exec_module(module)
    sys.path.remove(str(ROOT / "scripts"))
    return module


reference = load_script()


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_page_is_current(name: str) -> None:
    page = reference.FOLDER / f"{name}.md"
    assert page.read_text() == reference.current(name), "run `make reference`, and read the diff"


def test_no_page_is_left_over() -> None:
    assert {path.stem for path in reference.FOLDER.glob("*.md")} == set(reference.PAGES)
