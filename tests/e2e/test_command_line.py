"""The command line as people use it: processes of `windlass` in a home of their own, beside a server that runs on."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pandas as pd
import PIL.Image
import pytest
from click import testing
from onnx import TensorProto, helper
from sklearn import linear_model

from windlass.cli import main
from windlass.client import load as loads

pytestmark = pytest.mark.timeout(300)

WINDLASS = str(Path(sys.executable).parent / "windlass")
LABELS = "cat,dog,eel"
MODULES = '''
import torch

class Chooses(torch.nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # a choice by value
            return x * 2
        return x

class Deceives(torch.nn.Module):
    """Computes something else while it is exported."""

    def forward(self, x):
        return x * 2 if torch.compiler.is_exporting() else x * 3
'''


def picture_model(path: Path, seed: int) -> None:
    """8x8 grey pictures to three logits."""
    weights = np.random.default_rng(seed).standard_normal((64, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])],
        "pictures",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)


class Shell:
    """A folder in which commands run, with a home in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "HOME": str(folder), "TMPDIR": str(folder / "tmp")}
        (folder / "tmp").mkdir()
        for name in [name for name in self.environment if name.startswith(("WINDLASS_", "PYTEST"))]:
            del self.environment[name]

    def run(
        self, *arguments: str, code: int = 0, given: bytes | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """`windlass ARGUMENTS`, which must end with `code`; no escape codes reach a pipe, ever."""
        done = subprocess.run(
            [WINDLASS, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            input=given,
            capture_output=True,
            timeout=120,
        )
        text = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert text.returncode == code, (arguments, text.stdout, text.stderr)
        assert "\x1b" not in text.stdout + text.stderr
        assert "Traceback" not in text.stderr
        return text

    def json(self, *arguments: str, **more: Any) -> Any:
        """The result of a command that was asked for JSON: one line that can be parsed, and nothing else."""
        done = self.run(*arguments, "--json", **more)
        assert done.stdout.count("\n") == 1
        return json.loads(done.stdout)

    def error(self, *arguments: str, code: int) -> tuple[str, str]:
        """What happened and why, and what to do next, of a command that fails: nothing is on stdout."""
        done = self.run(*arguments, code=code)
        assert done.stdout == ""
        _, found, told = done.stderr.partition("Error: ")
        assert found, done.stderr
        sentence, _, hint = told.strip().partition("\n")
        assert hint, f"{arguments}: no next step beside '{sentence}'"
        return sentence, hint


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A home with two versions of `pictures`, and `people` from a pickle."""
    made = Shell(tmp_path_factory.mktemp("shell"))
    folder = made.folder
    for seed in (1, 2, 3):
        picture_model(folder / f"v{seed}.onnx", seed)
    (folder / "modules.py").write_text(MODULES)
    rows = pd.DataFrame(np.random.default_rng(0).standard_normal((400, 2)), columns=["age", "height"])
    rows.head(60).to_csv(folder / "rows.csv", index=False)
    joblib.dump(linear_model.LogisticRegression().fit(rows, (rows.age > 0).astype(int)), folder / "people.joblib")
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32))
    (folder / "labels.txt").write_text("cat\ndog\neel\n")
    picture = np.random.default_rng(5).integers(0, 256, (8, 8), dtype=np.uint8)
    PIL.Image.fromarray(picture, "L").save(folder / "picture.png")
    for version in (1, 2):
        labels = LABELS if version == 1 else "labels.txt"
        done = package(made, f"v{version}.onnx", "--labels", labels, "--description", f"number {version}")
        assert re.fullmatch(rf"pictures@{version}  sha256:[0-9a-f]{{64}}\n", done.stdout)
        assert "confined process" in done.stderr
    made.run("models", "alias", "pictures", "production", "1", "--reason", "the first")
    assert made.json("package", "people.joblib", "--name", "people", "--example", "rows.csv")["version"] == 1
    return made


def package(shell: Shell, source: str, *more: str, **how: Any) -> subprocess.CompletedProcess[str]:
    transform = "image:input=image,width=8,height=8,channels=1"
    return shell.run("package", source, "--name", "pictures", "--transform", transform, *more, **how)


@pytest.fixture(scope="module")
def server(shell: Shell) -> Iterator[str]:
    """`windlass serve` in the background; its URL."""
    log = (shell.folder / "server.log").open("wb")
    process = subprocess.Popen(
        [WINDLASS, "serve", "pictures", "people", "--port", "0", "--admin-port", "0"],
        cwd=shell.folder,
        env=shell.environment,
        stdout=log,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        told = b""
        while not (found := re.search(rb"http://127\.0\.0\.1:\d+", told)):
            ready, _, _ = select.select([process.stderr], [], [], 60)
            more = os.read(process.stderr.fileno(), 4096) if ready else b""
            assert more, f"the server did not start: {told.decode()}"
            told += more
        yield found[0].decode()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        process.stderr.close()
        log.close()


def blob_of(shell: Shell, reference: str) -> Path:
    """The file in the store that holds the weights."""
    digest = shell.json("inspect", reference)["manifest"]["model"]["blobs"]["model.onnx"]["digest"].split(":")[1]
    [found] = [path for path in (shell.folder / ".windlass" / "blobs").rglob("*") if path.name.endswith(digest[4:])]
    return found


def test_what_was_registered_is_listed_shown_and_inspected(shell: Shell) -> None:
    assert "pictures" in shell.run("models", "list").stdout
    listed = {model["name"]: model for model in shell.json("models", "list")}
    assert listed["pictures"]["aliases"] == {"production": 1}
    versions = shell.json("models", "list", "pictures")
    assert [(v["version"], v["status"], v["description"]) for v in versions if v["version"] <= 2] == [
        (2, "READY", "number 2"),
        (1, "READY", "number 1"),
    ]
    shown = shell.run("models", "show", "pictures").stdout
    for told in (
        "pictures@1  READY",
        "aliases    production",
        "image: FP32 [batch, 1, 8, 8]",
        "evidence   parity passed",
    ):
        assert told in shown
    assert shell.json("models", "show", "pictures@2")["version"]["version"] == 2
    events = shell.json("models", "history", "pictures")
    assert (events[-1]["to_version"], events[-1]["reason"]) == (1, "the first")
    assert "cat, dog, eel" in shell.run("inspect", "pictures").stdout
    assert shell.json("inspect", "pictures@2")["manifest"]["labels"] == LABELS.split(",")


def test_the_same_bytes_again_are_nothing_new(shell: Shell) -> None:
    done = package(shell, "v1.onnx", "--labels", LABELS, "--description", "number 1")
    assert done.stdout.startswith("pictures@1 ")
    assert "nothing new was made" in done.stderr
    assert shell.json("models", "list", "pictures")[-1]["version"] == 1


def test_people_ask_with_what_they_have(shell: Shell, server: str) -> None:
    by_picture = shell.json("predict", "pictures", "--input", "picture.png")
    assert by_picture[0]["label"] in LABELS.split(",")
    assert shell.json("predict", f"{server}/pictures", "--input", "picture.png") == by_picture
    assert f"label: {by_picture[0]['label']}" in shell.run("predict", "pictures", "--input", "picture.png").stdout
    png = (shell.folder / "picture.png").read_bytes()
    assert shell.json("predict", "pictures", "--input", "-", "--media-type", "image/png", given=png) == by_picture
    rows = shell.json("predict", "people", "--input", "rows.csv")
    assert [row["label"] for row in rows[:3]] == [row["label"] for row in rows][:3]
    assert len(rows) == 60
    (shell.folder / "row.json").write_text('{"age": 2.5, "height": 0.1}')
    assert shell.json("predict", "people", "--input", "row.json")[0]["label"] == "1"
    assert shell.json("predict", "people", "--input", "-", given=b'[{"age": -2.5, "height": 0}]')[0]["label"] == "0"


def test_a_version_that_no_server_has_is_loaded_for_one_question(shell: Shell, server: str) -> None:
    done = shell.run("predict", "pictures@2", "--input", "picture.png")
    assert "loading it for this one question" in done.stderr
    quiet = shell.run("predict", "pictures@2", "--input", "picture.png", "--quiet")
    assert (quiet.stdout, quiet.stderr) == (done.stdout, "")


@pytest.mark.promise("P-37")
def test_an_alias_moves_and_rolls_back_under_load_without_a_failure(shell: Shell, server: str) -> None:
    picture = (shell.folder / "picture.png").read_bytes()
    target = loads.http(f"{server}/predict/pictures", picture, content_type="image/png")
    load = loads.Load(loads.closed(target, connections=4, observe=True)).start()
    try:
        moved = shell.run("models", "alias", "pictures", "production", "2", "--reason", "better")
        assert moved.stdout == "pictures:production -> @2\n"
        assert "now answers pictures with version 2" in moved.stderr
        back = shell.run("models", "alias", "pictures", "production", "--rollback", "--reason", "worse after all")
        assert "now answers pictures with version 1" in back.stderr
    finally:
        report = load.stop()
    assert set(report.versions) == {"1", "2"}
    assert report.lost == 0
    assert report.answered > 0
    reasons = [event["reason"] for event in shell.json("models", "history", "pictures", "production")]
    assert {"better", "worse after all"} <= set(reasons)


def test_a_package_goes_out_to_a_file_and_comes_back(shell: Shell) -> None:
    shell.run("models", "export", "pictures@1", "out.windlass")
    assert shell.run("inspect", "./out.windlass").stdout.startswith("pictures ")
    assert "is whole" in shell.run("verify", "./out.windlass").stdout
    assert shell.json("models", "import", "out.windlass", "--name", "copied")["version"] == 1
    assert shell.json("predict", "./out.windlass", "--input", "picture.png") == shell.json(
        "predict", "copied", "--input", "picture.png"
    )
    assert "is deleted" in shell.run("models", "delete", "copied@1", "--yes").stdout


@pytest.mark.promise("P-60")
@pytest.mark.promise("P-39")
def test_a_flipped_byte_is_found_put_aside_and_served_past(shell: Shell, server: str) -> None:
    assert shell.json("verify", "pictures@2")["verdict"] == "passed"
    package(shell, "v3.onnx")
    blob = blob_of(shell, "pictures@3")
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(data)
    sentence, hint = shell.error("verify", "pictures@3", code=4)
    assert "pictures@3" in sentence
    assert "models" in hint
    statuses = {v["version"]: v["status"] for v in shell.json("models", "list", "pictures")}
    assert statuses == {1: "READY", 2: "READY", 3: "QUARANTINED"}
    sentence, _ = shell.error("serve", "pictures@3", code=7)
    assert "quarantine" in sentence
    sentence, _ = shell.error("models", "alias", "pictures", "production", "3", code=7)
    assert shell.json("predict", f"{server}/pictures", "--input", "picture.png")


@pytest.mark.parametrize(
    ("line", "code", "told", "next_step"),
    [
        ("models show picture", 3, "no model 'picture'", "'pictures'"),
        ("serve pictres", 3, "no model 'pictres'", "'pictures'"),
        ("inspect nobody", 3, "no model 'nobody'", "windlass models list"),
        ("models show pictures@99", 3, "no version 99", "windlass models"),
        ("models show pictures:staging", 3, "no alias 'staging'", "windlass models"),
        ("models show pictures@new", 2, "'new' is no version", "pictures@3"),
        ("models list Bad/Name", 2, "'Bad/Name' is no model name", "lower-case"),
        ("models alias pictures production", 2, "where the alias goes", "VERSION"),
        ("models delete pictures --yes", 2, "another version tomorrow", "NAME@NUMBER"),
        ("models alias pictures production 2 --if-generation 77", 5, "generation", "history"),
        ("inspect ./nothing.windlass", 3, "nothing", "path"),
        ("serve", 2, "Name the versions", "windlass models list"),
        ("serve pictures --host 0.0.0.0", 7, "other machines", "--insecure"),
        ("serve people people", 2, "named twice", "once"),
        ("predict pictures", 2, "the text to send", "Example"),
        ("predict pictures --input nothing.png", 3, "nothing.png", "--input"),
        ("predict pictures --input modules.py", 2, "'.py'", "--media-type"),
        ("predict http://127.0.0.1:9/pictures hello", 6, "no answer from http://127.0.0.1:9", "windlass serve"),
        ("predict http://127.0.0.1:9 hello", 2, "names no model", "NAME"),
        ("package nothing.onnx --name m", 3, "'nothing.onnx'", "module:factory"),
        ("package modules:Nobody --name m", 3, "has no 'Nobody'", "name"),
        ("package nomodule:Nobody --name m", 3, "'nomodule'", "folder"),
        ("package v1.onnx --name m --example nothing.npy", 3, "nothing.npy", "--example"),
        ("package v1.onnx --name Bad", 2, "'Bad' is no model name", "lower-case"),
        ("modles list", 2, "no command 'modles'", "'models'"),
        ("models lsit", 2, "no command 'lsit'", "'list'"),
    ],
)
def test_an_error_says_what_why_and_what_next(shell: Shell, line: str, code: int, told: str, next_step: str) -> None:
    sentence, hint = shell.error(*line.split(), code=code)
    assert told in sentence
    assert next_step in hint


@pytest.mark.promise("P-02")
def test_what_listens_beyond_this_machine_must_be_asked_for(shell: Shell) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        sentence, hint = shell.error("serve", "people", "--host", host, code=7)
        assert "neither keys nor TLS" in sentence
        assert "--insecure" in hint


def test_a_taken_port_is_said_before_anything_is_loaded(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        sentence, hint = shell.error("serve", "people", "--port", port, code=6)
    assert port in sentence
    assert "--port" in hint


@pytest.mark.promise("P-10")
def test_an_unknown_setting_names_the_nearest(shell: Shell) -> None:
    (shell.folder / "bad.toml").write_text("[serve]\nprot = 8000\n")
    sentence, hint = shell.error("--config", "bad.toml", "models", "list", code=2)
    assert "'serve.prot'" in sentence
    assert "'serve.port'" in hint
    done = shell.run("models", "list", code=2, WINDLASS_SERVE__ADMINPORT="1")
    assert "Did you mean 'serve.admin_port'?" in done.stderr


def test_a_module_that_chooses_by_value_is_refused_with_its_line(shell: Shell) -> None:
    sentence, hint = shell.error("package", "modules:Chooses", "--name", "m", "--example", "x.npy", code=4)
    assert "modules.py:6: if x.sum() > 0" in sentence
    assert "torch.where" in hint


@pytest.mark.promise("P-28")
def test_an_export_that_differs_is_refused_with_the_worst_input_and_both_answers(shell: Shell) -> None:
    sentence, hint = shell.error("package", "modules:Deceives", "--name", "deceiver", "--example", "x.npy", code=4)
    for told in (
        "The worst input is row",
        "'x' [4]",
        "torch 2",
        "the package gives [4]",
        "tolerance is 0.001 relative",
    ):
        assert told in sentence
    assert "Nothing was packaged" in hint
    assert "deceiver" not in {model["name"] for model in shell.json("models", "list")}


def test_help_is_there_for_every_command(shell: Shell) -> None:
    top = shell.run("--help").stdout
    verbs = re.findall(r"^  ([a-z]+)  ", top.partition("Commands:")[2], re.MULTILINE)
    assert {"demo", "package", "inspect", "verify", "models", "serve", "predict", "up", "deploy", "rollout"} <= set(
        verbs
    )
    lines = [[verb] for verb in verbs]
    for line in lines:
        told = testing.CliRunner().invoke(main.cli, [*line, "--help"], prog_name="windlass").output
        assert told.startswith(f"Usage: windlass {' '.join(line)}")
        _, grouped, inner = told.partition("Commands:")
        assert grouped or {"--json", "--quiet"} <= set(told.split())
        lines.extend([*line, verb] for verb in re.findall(r"^  ([a-z]+)  ", inner, re.MULTILINE))


def test_no_colour_reaches_a_terminal_that_asked_for_none(shell: Shell) -> None:
    def on_a_terminal(**environment: str) -> str:
        theirs, ours = os.openpty()
        with io.FileIO(theirs) as terminal:
            process = subprocess.Popen(
                [WINDLASS, "models", "show", "nobody"],
                cwd=shell.folder,
                env={**shell.environment, "TERM": "xterm", **environment},
                stderr=ours,
                stdout=subprocess.DEVNULL,
            )
            os.close(ours)
            told = b""
            try:
                while more := terminal.read(4096):
                    told += more
            except OSError:
                pass  # the other end of a pseudo-terminal closes with EIO
            assert process.wait(60) == 3
        return told.decode()

    assert "\x1b[31m" in on_a_terminal()
    assert "\x1b" not in on_a_terminal(NO_COLOR="1")
