"""The product's source files, and those around it, parsed once, for the tests of the house's rules.

Each rule is a function from a `Source` to what breaks it, tested on a bad snippet before it is believed on the product.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ROOT / "src" / "windlass"
AROUND = ("tests", "benchmarks", "scripts")


@dataclass(frozen=True)
class Source:
    """One module: `path` is relative to src/windlass (around the product: to the root), with slashes."""

    path: str
    text: str
    tree: ast.Module

    def __repr__(self) -> str:
        return self.path

    def at(self, node: ast.AST) -> str:
        """Where a finding is, as an editor reads it."""
        return f"src/windlass/{self.path}:{getattr(node, 'lineno', 1)}"

    @property
    def module(self) -> str:
        """The dotted name under `windlass`; a package's `__init__` bears the package's name."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def imports(self) -> Iterator[tuple[ast.stmt, str]]:
        """Every import anywhere in the file: the statement and the full dotted module it names."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def parse(path: str, text: str) -> Source:
    """A source from text, for snippets."""
    text = textwrap.dedent(text)
    return Source(path, text, ast.parse(text))


@pytest.fixture(scope="session")
def snippet() -> Callable[[str, str], Source]:
    return parse


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    return [parse(p.relative_to(PRODUCT).as_posix(), p.read_text()) for p in sorted(PRODUCT.rglob("*.py"))]


@pytest.fixture(scope="session")
def sources_around() -> list[Source]:
    """The tests, benchmarks and scripts."""
    paths = sorted(path for folder in AROUND for path in (ROOT / folder).rglob("*.py"))
    return [parse(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]
