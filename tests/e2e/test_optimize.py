"""`windlass optimize` as people use it: interrupted and gone on with, replayed, refused, and asked from Python."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import windlass
from windlass.cli import main

pytestmark = pytest.mark.timeout(300)

WINDLASS = str(Path(sys.executable).parent / "windlass")
WIDTHS = (128, 512, 512, 4)
JUDGED = ("--data", "rows.npz", "--labels", "label", "--max-drop", "4%", "--batch", "1", "--goal", "size")
ASKED = (*JUDGED, "--time", "3m")
SEARCHED = ("optimize", "wide@1", *ASKED, "--techniques", "quantize_dynamic", "--adversarial")


def layers(seed: int) -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    return [
        (random.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
        for rows, columns in itertools.pairwise(WIDTHS)
    ]


def wide(path: Path) -> None:
    """A wide network whose weights are drawn."""
    nodes, name = [], "x"
    weights = layers(0)
    for number in range(len(weights)):
        last = number == len(weights) - 1
        nodes.append(helper.make_node("MatMul", [name, f"w{number}"], ["logits" if last else f"h{number}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{number}"], [f"r{number}"]))
        name = f"r{number}"
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTHS[0]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", WIDTHS[-1]])],
        [onnx.numpy_helper.from_array(weight, f"w{number}") for number, weight in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)


def rows(count: int) -> dict[str, np.ndarray[Any, Any]]:
    """Rows with the network's own answers, but for one in ten."""
    random = np.random.default_rng(1)
    given = random.standard_normal((count, WIDTHS[0])).astype(np.float32)
    found = given
    for weight in layers(0)[:-1]:
        found = np.maximum(found @ weight, 0)
    label = (found @ layers(0)[-1]).argmax(axis=1)
    wrong = random.random(count) < 0.1
    return {"x": given, "label": np.where(wrong, (label + 1) % WIDTHS[-1], label)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model registered and rows to judge on."""
    found = tmp_path_factory.mktemp("optimize")
    wide(found / "wide.onnx")
    given = rows(2000)
    np.savez(found / "rows.npz", x=given["x"], label=given["label"])
    windlass.package(found / "wide.onnx", {"x": rows(16)["x"]}, name="wide", home=found / ".windlass")
    return found


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def measured(folder: Path) -> dict[tuple[Any, ...], Any]:
    """What a journal holds, by key."""
    (file,) = (folder / ".windlass" / "studies").glob("*/journal.jsonl")
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    return {tuple(line["key"]): line["value"]["found"] for line in lines if line["key"][0] in ("time", "judged")}


@pytest.fixture(scope="module")
def studied(folder: Path) -> tuple[dict[tuple[Any, ...], Any], str, dict[str, Any]]:
    """A study that was interrupted: its journal, what was said, and what came of the same command afterwards."""
    environment = {**os.environ, "HOME": str(folder)}
    command = [WINDLASS, *SEARCHED]
    said = ""
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as begun:
        assert begun.stderr is not None
        for line in begun.stderr:
            said += line
            if line.startswith("  quantize_dynamic: "):
                begun.send_signal(signal.SIGINT)
    assert begun.returncode == 130, said
    kept = measured(folder)
    command = [WINDLASS, "--json", *SEARCHED, "--report", "study.html"]
    whole = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    return kept, said, json.loads(whole.stdout)


def test_an_interrupted_study_goes_on(
    folder: Path, studied: tuple[dict[tuple[Any, ...], Any], str, dict[str, Any]]
) -> None:
    kept, said, found = studied
    # On a busy machine the next form may be there before the interrupt is.
    assert re.search(r"Interrupted after \d forms?\.\nWhat was measured is kept: the same command goes on .*\n$", said)
    report = found["report"]
    first = next(one for one in report["candidates"] if ("judged", one["digest"]) in kept)
    assert first["name"] == "quantize_dynamic"
    assert kept["judged", first["digest"]] == first["judged"]
    assert kept["time", report["baseline"]["digest"], 1, True] == report["baseline"]["timings"][0]
    assert list((folder / ".windlass" / "studies").iterdir()) == []


def test_the_best_within_the_budget_is_a_new_version_that_says_why(
    folder: Path, studied: tuple[dict[tuple[Any, ...], Any], str, dict[str, Any]]
) -> None:
    found = studied[2]
    report = found["report"]
    assert (report["verdict"], found["version"]["version"]) == ("optimized", 2)
    chosen = next(one for one in report["candidates"] if one["verdict"] == "chosen")
    assert chosen["footprint"]["files"] < 0.3 * report["baseline"]["footprint"]["files"]
    assert chosen["confirmed"]["drop"]["high"] <= report["asked"]["max_drop"]
    assert report["data"]["rows"]["final"] >= 700
    assert chosen["confirmed"]["attacked"]["baseline"] < chosen["confirmed"]["drop"]["baseline"]
    assert "with adversarial noise" in report["sentence"]
    assert all(one["why"].endswith(".") for one in report["candidates"])
    assert report["cost"]["before"] > 0
    assert 0 < report["cost"]["first_verdict_s"] <= report["seconds"]
    assert (folder / "study.html").read_text(encoding="utf-8").count(report["sentence"][:20]) >= 1


def test_a_recipe_makes_the_same_bytes_again(
    folder: Path,
    studied: tuple[dict[tuple[Any, ...], Any], str, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = studied[2]
    (folder / "recipe.toml").write_text(found["report"]["recipe"], encoding="utf-8")
    assert main.run(["--json", "--quiet", "optimize", "wide@1", *ASKED, "--replay", "recipe.toml"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["report"]["chosen"] == found["report"]["chosen"]
    assert len(again["report"]["candidates"]) == 1
    assert again["version"] | {"created": True} == found["version"]
    assert again["report"]["notes"] == []


def test_a_budget_that_nothing_meets_ends_with_4_and_registers_nothing(
    folder: Path,
    studied: tuple[dict[tuple[Any, ...], Any], str, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "recipe.toml").write_text(studied[2]["report"]["recipe"], encoding="utf-8")
    asked = ["optimize", "wide@1", *ASKED, "--replay", "recipe.toml", "--max-size", "1kB"]
    assert main.run(["--json", "--quiet", *asked]) == 4
    out, said = capsys.readouterr()
    found = json.loads(out)
    assert (found["version"], found["report"]["verdict"]) == (None, "missed")
    assert found["report"]["nearest"].endswith("1 kB is asked")
    assert "Nothing was registered." in said
    assert main.run(["--json", "models", "list"]) == 0
    assert [model["newest"] for model in json.loads(capsys.readouterr().out)] == [2]


def test_it_is_asked_from_python(folder: Path, studied: tuple[dict[tuple[Any, ...], Any], str, dict[str, Any]]) -> None:
    found = windlass.optimize(
        "wide@1",
        rows(2000),
        labels="label",
        home=folder / ".windlass",
        max_drop="4%",
        goal="size",
        batches=(1,),
        techniques=("quantize_dynamic",),
        time="6s",
    )
    assert (found.version is not None) == (found.report.verdict == "optimized")
    assert found.report.data["digests"].keys() == {"calibration", "search", "final"}
    assert str(found) == found.report.sentence


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--techniques", "quantise_dynamic"], "Did you mean 'quantize_dynamic'?"),
        (["--max-drop", "little"], "0.5% or 0.005"),
        (["--time", "soon"], "10m"),
        (["--data", "rows.npz", "--labels", "lable"], "Did you mean 'label'?"),
        (["--data", "none.npz"], "no file none.npz"),
        (["--labels", "label"], "which was not given"),
        (["--replay", "none.toml"], "no file none.toml"),
        (["--report", "none/report.html"], "no folder 'none'"),
        (["--train", "rows.npz"], "--model module:factory"),
        (["--model", "wide.onnx"], "no PyTorch module"),
        (["--data", "rows.npz", "--labels", "label", "--max-drop", "0.01%"], "rows cannot show"),
        (["--batch", "100000"], "smaller --batch"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_searched(
    more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["optimize", "wide@1", *more]) in (2, 3)
    assert said in capsys.readouterr().err


def test_a_dry_run_says_what_it_would_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main.run(["--quiet", "optimize", "wide@1", *ASKED, "--techniques", "quantize_dynamic,half", "--dry-run"]) == 0
    )
    out = capsys.readouterr().out
    assert "would be tried: quantize_dynamic, half" in out
    assert "at most 3 min" in out
