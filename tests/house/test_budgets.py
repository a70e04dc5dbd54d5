"""Rules 2 and 9: what a process loads, and how long it takes to start.

Times are CPU time, the least of several runs: a busy machine must not decide.
"""

from __future__ import annotations

import json
import subprocess
import sys

RUNS = 5
IMPORT_MS = 80
HELP_MS = 200
STARTING_MS = 40
FRAMEWORKS = ["torch", "onnx", "onnxscript", "onnx_ir", "transformers", "sklearn", "skl2onnx", "xgboost", "lightgbm"]
CONTROL_PLANE = [
    "windlass.api",
    "windlass.cli",
    "windlass.client",
    "windlass.controller",
    "windlass.desired",
    "windlass.packaging.capture",
    "windlass.records",
    "windlass.registry",
    "windlass.remote",
    "windlass.rollout",
    "windlass.sdk",
    "windlass.statistics",
    "windlass.targets",
]
NOT_IN_A_WORKER = [
    *FRAMEWORKS,
    *CONTROL_PLANE,
    "sqlalchemy",
    "alembic",
    "psycopg",
    "fastapi",
    "starlette",
    "uvicorn",
    "httpx",
    "pydantic",
    "click",
    "rich",
    "pandas",
]


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(program: str) -> set[str]:
    """The modules that a fresh process holds after running `program`."""
    return set(json.loads(run(f"{program}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))").splitlines()[-1]))


def cpu_ms(program: str) -> float:
    """The CPU time of a fresh process for `program`, start of Python not counted; the least of several runs."""
    timed = f"import time\nstart = time.process_time()\n{program}\nprint((time.process_time() - start) * 1e3)"
    return min(float(run(timed).splitlines()[-1]) for _ in range(RUNS))


def unwanted(loaded: set[str], names: list[str]) -> list[str]:
    return [name for name in names if any(m == name or m.startswith(f"{name}.") for m in loaded)]


def test_the_measures_can_fail() -> None:
    assert unwanted(loaded_by("import numpy.linalg"), ["numpy", "torch"]) == ["numpy"]
    assert cpu_ms("sum(range(3_000_000))") > 10


def test_importing_windlass_is_light() -> None:
    assert unwanted(loaded_by("import windlass"), ["numpy", "msgspec", "onnxruntime", "windlass.sdk"]) == []
    assert cpu_ms("import windlass") < IMPORT_MS


def test_help_is_quick() -> None:
    program = (
        "import sys\nfrom windlass.cli import main\nsys.argv = ['windlass', '--help']\n"
        "try:\n    main.main()\nexcept SystemExit as e:\n    assert not e.code"
    )
    assert cpu_ms(program) < HELP_MS
    assert unwanted(loaded_by(program), ["numpy", "onnxruntime", "sqlalchemy", "torch"]) == []


PLUGINS = """
from windlass import plugins
for kind in {kinds}:
    for name in plugins.catalog()[kind]:
        plugins.load(kind, name)
"""
SERVER_PLUGINS = PLUGINS.format(kinds=("runtimes", "transforms", "protocols"))
CONTROLLER_PLUGINS = PLUGINS.format(kinds=("strategies", "targets"))


def test_a_worker_knows_no_control_plane_and_no_framework() -> None:
    loaded = loaded_by(f"import windlass.serving.worker\n{SERVER_PLUGINS}")
    assert "windlass.serving.worker" in loaded
    assert unwanted(loaded, NOT_IN_A_WORKER) == []


def test_a_supervisor_knows_no_model_either() -> None:
    loaded = loaded_by("import windlass.serving.supervisor")
    never = ["onnxruntime", "windlass.runtimes", "windlass.packaging", "windlass.transforms", "windlass.storage"]
    assert unwanted(loaded, [*NOT_IN_A_WORKER, *never]) == []


def test_the_control_plane_loads_no_model_and_no_framework() -> None:
    loaded = loaded_by(
        "from windlass.api import app\nfrom windlass.cli import main, up\nfrom windlass.controller import loop\n"
        f"{CONTROLLER_PLUGINS}"
    )
    assert {"windlass.api.app", "windlass.controller.loop", "windlass.rollout.strategies.canary"} <= loaded
    never = ["onnxruntime", "windlass.runtimes.onnx", "windlass.serving.worker", "windlass.packaging.capture"]
    assert unwanted(loaded, [*FRAMEWORKS, *never]) == []


def test_a_worker_is_begun_before_anything_slow() -> None:
    program = "import windlass.serving.starting"
    assert unwanted(loaded_by(program), ["numpy", "msgspec", "asyncio", "ssl"]) == []
    assert cpu_ms(program) < STARTING_MS
