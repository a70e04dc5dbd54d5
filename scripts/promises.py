"""Lists each promise and threat of docs/, the tests that prove it, and what they said when they ran last.

Run by `make promises`; reads docs/promises.md, docs/threats.md and the results that `make test` left in build/.
Exits with 1 when a promise has a failed test, or one that has not run: what was not examined is not called kept.
"""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# One file for each of the two runs of `make test`.
RESULTS = "test-results*.xml"
TABLES = {"promise": ROOT / "docs" / "promises.md", "threat": ROOT / "docs" / "threats.md"}
ROW = re.compile(r"^\| *([A-Z]+-?\d+[a-z]?) *\| *([^|]+?) *\|")


def documented(kind: str) -> dict[str, str]:
    """The ids of a table in docs/, in order, each with its sentence."""
    rows = (ROW.match(line) for line in TABLES[kind].read_text().splitlines())
    return {row[1]: row[2] for row in rows if row}


def marked_in(text: str, kind: str) -> Iterator[str]:
    """The ids that `pytest.mark.<kind>("ID")` names in a test file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(f"mark.{kind}"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def marked(kind: str) -> dict[str, list[str]]:
    """Each id that tests are marked with, and the files they are in."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in sorted(set(marked_in(path.read_text(), kind))):
            found.setdefault(name, []).append(path.relative_to(ROOT).as_posix())
    return found


def last_results(texts: Iterable[str]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """From pytest's JUnit files: (kind, id) -> the tests and their outcomes."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for case in (case for text in texts for case in ET.fromstring(text).iter("testcase")):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        test = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '')}"
        for prop in case.iter("property"):
            found.setdefault((prop.get("name", ""), prop.get("value", "")), []).append((test, outcome))
    return found


def verdict(outcomes: list[str]) -> str:
    """One word for all tests of a promise."""
    if "failed" in outcomes:
        return "FAILED"
    return "kept" if "passed" in outcomes else "not run"


def summary(tests: list[tuple[str, str]]) -> list[str]:
    """A line for each test, whatever the number of its cases; a case that failed has its own."""
    counts = Counter((test.partition("[")[0], outcome) for test, outcome in tests if outcome != "failed")
    lines = [f"{outcome} {count:4}: {test}" for (test, outcome), count in counts.items()]
    return lines + [f"FAILED     : {test}" for test, outcome in tests if outcome == "failed"]


def main() -> int:
    results = last_results(path.read_text() for path in sorted((ROOT / "build").glob(RESULTS)))
    if not results:
        print("There are no results yet: run `make test`.", file=sys.stderr)
    worst = 0
    for kind in TABLES:
        files = marked(kind)
        for name, sentence in documented(kind).items():
            tests = results.get((kind, name), [])
            word = verdict([outcome for _, outcome in tests])
            worst |= word != "kept"
            print(f"{word:8} {name:5} {sentence}")
            for line in summary(tests):
                print(f"{'':15}{line}")
            for file in files.get(name, []) if not tests else []:
                print(f"{'':15}not run: {file}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
