"""What holds for every test: the order of the tiers, what may run beside what, and what a unit test may not do.

Read by pytest for the whole tree. Must never hold fixtures that only one room's tests use.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import loadscope

# Two processes share two cores: a matrix of a test takes ten times as long on threads that wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell starts what runs in its background deaf to Ctrl-C, and what the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
TIERS = ("unit", "conformance", "house", "integration", "e2e")
# Tests that measure time, or load a server to its limits, have the machine to themselves (`-m alone`); the others share
# it in two processes.
ALONE = (
    "house/test_budgets.py",
    "integration/test_counters_killed.py",
    "integration/test_load_generator.py",
    "integration/test_worst_request.py",
    "e2e/drills/test_",
    "e2e/test_bench",
    "e2e/test_reload_memory",
    *(
        f"e2e/test_server_{name}"
        for name in ("ends", "fuzz", "keys", "lifecycle", "log", "overload", "updates", "workers")
    ),
    "e2e/test_shadow",
)
# What their tests share (servers, models) is made once a file, not once in each process.
WHOLE = (
    "conformance/test_capture",
    "conformance/test_techniques",
    "e2e/",
    "integration/test_capture_torch.py",
    "integration/test_gate",
)
# Audit events that a unit test must not raise: it neither waits, nor talks, nor starts a process.
FORBIDDEN_IN_UNIT = frozenset(
    {"time.sleep", "socket.connect", "socket.bind", "subprocess.Popen", "os.posix_spawn", "os.fork", "os.system"}
)

_running_unit_test: list[str] = []


def _watch(event: str, _arguments: Any) -> None:
    if event in FORBIDDEN_IN_UNIT and _running_unit_test:
        name = _running_unit_test[-1]
        raise RuntimeError(f"the unit test {name} does '{event}': it belongs into tests/integration or tests/e2e")


sys.addaudithook(_watch)


def _place(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).as_posix()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m alone` reads the files of ALONE only, and `-m "not alone"` the others: most take long to import."""
    chosen = config.option.markexpr
    if chosen not in ("alone", "not alone") or not collection_path.is_relative_to(TESTS):
        return None
    place = collection_path.relative_to(TESTS).as_posix()
    if collection_path.is_dir():
        wanted = chosen == "not alone" or f"{place}/".startswith(("./", *ALONE)) or any(f"{place}/" in a for a in ALONE)
    else:
        wanted = place.startswith(ALONE) == (chosen == "alone")
    return None if wanted else True


def _tier(item: pytest.Item) -> int:
    folder = _place(item).split("/")[0]
    return TIERS.index(folder) if folder in TIERS else len(TIERS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fast tiers first; no soak unless it is asked for; promises and threats go into the results file."""
    if "soak" not in config.option.markexpr:
        chosen = [item for item in items if item.get_closest_marker("soak") is None]
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak")])
        items[:] = chosen
    for item in items:
        if _place(item).startswith(ALONE):
            item.add_marker(pytest.mark.alone)
        for kind in ("promise", "threat"):
            item.user_properties += [(kind, name) for marker in item.iter_markers(kind) for name in marker.args]
    items.sort(key=_tier)


class Scheduling(loadscope.LoadScopeScheduling):  # type: ignore[misc]
    """Which tests one process gets at once: a file's in WHOLE, each by itself elsewhere."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return file if file.removeprefix("tests/").startswith(WHOLE) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Ours, instead of one that groups by marks, which xdist 3.8 no longer sees in pytest 9."""
    return Scheduling(config, log)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI nothing is skipped: what a machine lacks is installed there, or the run fails."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"


@pytest.fixture(autouse=True)
def _unit_tests_stay_units(request: pytest.FixtureRequest) -> Iterator[None]:
    if _tier(request.node) != TIERS.index("unit"):
        yield
        return
    _running_unit_test.append(request.node.nodeid)
    yield
    _running_unit_test.pop()
