"""Rule 11: what the documents say is true: the tables of promises and threats, and every code block that can be run."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "--windlass-doc--"


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


promises = load_script("promises")


@pytest.mark.parametrize("kind", promises.TABLES)
def test_the_table_and_the_markers_agree(kind: str) -> None:
    table, markers = set(promises.documented(kind)), set(promises.marked(kind))
    assert sorted(markers - table) == [], f"tests prove these, docs/{kind}s.md does not have them"
    assert sorted(table - markers) == [], f"docs/{kind}s.md has these, no test proves them"


def test_markers_are_found() -> None:
    text = (
        "import pytest\n@pytest.mark.promise('P-01')\ndef test_a(): ...\npytestmark = [pytest.mark.promise('P-02')]\n"
    )
    assert set(promises.marked_in(text, "promise")) == {"P-01", "P-02"}
    assert set(promises.marked_in(text, "threat")) == set()


def test_results_are_read() -> None:
    text = (
        '<testsuites><testsuite><testcase classname="tests.house.test_x" name="test_a"><properties>'
        '<property name="promise" value="P-01"/></properties><failure message="no"/></testcase></testsuite>'
        "</testsuites>"
    )
    results = promises.last_results(text)
    assert results == {("promise", "P-01"): [("test_x::test_a", "failed")]}
    assert promises.verdict(["passed", "failed"]) == "FAILED"
    assert promises.verdict(["skipped"]) == promises.verdict([]) == "not run"


class Step(NamedTuple):
    """A command of a document and the output it shows; Python blocks are steps as well."""

    command: str
    shown: tuple[str, ...]


def steps(text: str) -> list[Step]:
    """In a console block `$ ` starts a command, `> ` goes on with it, and other lines are its output."""
    found: list[Step] = []
    for kind, body in BLOCK.findall(text):
        if kind == "python":
            found.append(Step(f"python - <<'{MARK}'\n{body}{MARK}", ()))
            continue
        for line in body.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:], ()))
            elif line.startswith("> ") and found:
                found[-1] = Step(f"{found[-1].command}\n{line[2:]}", ())
            elif line.strip() and found:
                found[-1] = found[-1]._replace(shown=(*found[-1].shown, line))
    return found


def shows(output: str, shown: tuple[str, ...]) -> list[str]:
    """The lines of a document that the output does not have in that order; `...` stands for anything."""
    lines = iter(output.splitlines())
    missing = []
    for wanted in shown:
        pattern = re.compile(".*".join(re.escape(part) for part in wanted.strip().split("...")))
        if not any(pattern.fullmatch(line.strip()) for line in lines):
            missing.append(wanted)
            break
    return missing


def run_document(text: str, folder: Path) -> list[str]:
    """Run all steps in one shell in an empty folder; what failed, or was shown and did not come."""
    script = "".join(f"{step.command}\nprintf '\\n{MARK} %s\\n' $?\n" for step in steps(text))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = subprocess.Popen(
        ["bash"],
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", "NO_COLOR": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(f"{script}kill $(jobs -p) 2> /dev/null; wait\n", timeout=240)
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
    said = re.split(rf"^{MARK} (\d+)\n", output, flags=re.MULTILINE)
    problems = []
    for step, text_said, status in zip(steps(text), said[::2], said[1::2], strict=False):
        problems += [f"$ {step.command}\nexits {status}:\n{text_said}"] if status != "0" else []
        problems += [
            f"$ {step.command}\ndoes not say: {line}\nbut:\n{text_said}" for line in shows(text_said, step.shown)
        ]
    if len(said[1::2]) != len(steps(text)):
        problems.append(f"the shell ended early:\n{output}")
    return problems


@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_document_can_be_followed(document: Path, tmp_path: Path) -> None:
    assert "\n".join(run_document(document.read_text(), tmp_path)) == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```console\n$ false\n```\n", "exits 1"),
        ("```console\n$ echo one two\none three\n```\n", "does not say: one three"),
        ("```console\n$ exit 3\n$ true\n```\n", "ended early"),
        ("```python\nraise SystemExit(4)\n```\n", "exits 4"),
    ],
)
def test_a_wrong_document_is_found(text: str, problem: str, tmp_path: Path) -> None:
    assert problem in "\n".join(run_document(text, tmp_path))


def test_a_right_document_passes(tmp_path: Path) -> None:
    text = (
        "```console\n$ name=windlass\n$ echo 'a 12 ms' \\\n> b; echo $name\na ... ms b\nwindlass\n$ sleep 60 &\n```\n"
    )
    assert run_document(text + "```python\nprint(1 + 1)\n```\n", tmp_path) == []
