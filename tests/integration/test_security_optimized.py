"""The tests of what guards the server, once more under `python -O`, which takes every `assert` out of the product.

pytest rewrites the asserts of test modules into raised errors, which -O leaves; a test that must fail shows it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITE = (
    "tests/unit/security",
    "tests/unit/packaging/test_packaging_hostile_archives.py",
    "tests/unit/types/test_types_contract.py",
    "tests/unit/types/test_types_strict_json.py",
    "tests/unit/serving/door",
    "tests/unit/protocols/test_oip_grpc.py",
    "tests/unit/protocols/test_oip_rest.py",
    "tests/unit/protocols/test_oip_binary.py",
    "tests/unit/protocols/test_json_tensors.py",
)
# What searches for long is left out: it shows the same without -O.
SLOW = "not no_order_of_messages and not bomb-within and not never_changes_what"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # The warning says that asserts outside of test modules are not run; those are what this is about.
    line = [sys.executable, "-O", "-m", "pytest", "-p", "no:cacheprovider", "--import-mode=importlib"]
    ignored = ["-W", "ignore:assertions not in test modules:pytest.PytestConfigWarning"]
    return subprocess.run(
        [*line, *ignored, "-m", "not soak", "-k", SLOW, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        # CI: hypothesis sets no deadlines.
        env={**{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}, "CI": "1"},
    )


def test_this_is_not_optimized() -> None:
    """The one that fails under -O, and so shows that the asserts of the others are run there."""
    assert __debug__


@pytest.mark.promise("P-06")
@pytest.mark.threat("V21")
def test_the_guards_hold_without_asserts() -> None:
    done = run(f"{Path(__file__).relative_to(ROOT)}::test_this_is_not_optimized", *SUITE)
    *_, last = done.stdout.strip().splitlines()
    assert "1 failed" in last, done.stdout[-3_000:] + done.stderr[-1_000:]
    assert "::test_this_is_not_optimized" in done.stdout
    assert int(last.partition(" passed")[0].rpartition(" ")[2]) > 300
