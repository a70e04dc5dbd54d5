"""Rule 11: what the documents say is true: the tables of promises and threats, and every code block that can be run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from windlass.serving import launch

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# A block is run if it is a session or a script; with a name behind its language it is a file to write.
BLOCK = re.compile(r"^```(\w+)(?: ([\w./-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(rf"{CODE_BLOCK.pattern}|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
MARK = "--windlass-doc--"
SLOW = "<!-- slow: followed by `make soak` -->"
# The ports that documents speak of, and the setting of each; a run of a document has free ones in their place.
PORTS = {"8000": "WINDLASS_SERVE__PORT", "8001": "WINDLASS_SERVE__ADMIN_PORT", "8080": "WINDLASS_UP__PORT"}
PORT = re.compile(rf"\b(?:{'|'.join(PORTS)})\b")


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
    results = promises.last_results([text])
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
    for kind, file, body in BLOCK.findall(text):
        if file:
            found.append(Step(f"cat > {file} <<'{MARK}'\n{body}{MARK}", ()))
            continue
        if kind == "python":
            found.append(Step(f"python - <<'{MARK}'\n{body}{MARK}", ()))
        if kind != "console":
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


def free_ports(count: int) -> list[str]:
    """Ports that nobody has now."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in probes]


def run_document(text: str, folder: Path) -> list[str]:
    """Run all steps in one shell in an empty folder; what failed, or was shown and did not come."""
    free = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    text = PORT.sub(lambda found: free[found[0]], text)
    script = "".join(f"{step.command}\nprintf '\\n{MARK} %s\\n' $?\n" for step in steps(text))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = subprocess.Popen(
        ["bash"],
        cwd=folder,
        env={
            "PATH": path,
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
        }
        | {setting: free[port] for port, setting in PORTS.items()},
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
        # What `windlass up` started serves on when it is killed.
        if (folder / ".windlass").is_dir():
            launch.stop(folder / ".windlass")
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
@pytest.mark.parametrize(
    "document",
    [
        pytest.param(path, id=path.name, marks=[pytest.mark.soak] if SLOW in path.read_text() else [])
        for path in DOCUMENTS
        if steps(path.read_text())
    ],
)
def test_the_document_can_be_followed(document: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    # A short name: a home too deep for a socket's path keeps its sockets elsewhere.
    assert "\n".join(run_document(document.read_text(), tmp_path_factory.mktemp("d"))) == ""


def anchor(heading: str) -> str:
    """What a heading is called in a link: as GitHub does it."""
    plain = re.sub(r"[^\w\- ]", "", LINK.sub(lambda found: found[0].split("](")[0].lstrip("!["), heading).lower())
    return plain.replace(" ", "-")


def dead_links(text: str, document: Path) -> list[str]:
    """The relative links of a document that lead to no file, or to no heading in it."""
    dead = []
    for link in LINK.findall(CODE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, heading = link.partition("#")
        target = (document.parent / name) if name else document
        text_there = CODE_BLOCK.sub("", target.read_text()) if heading and target.is_file() else ""
        if not target.exists() or (heading and heading not in map(anchor, HEADING.findall(text_there))):
            dead.append(link)
    return dead


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    assert dead_links(document.read_text(), document) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page, and *more*\n")
    links = "[a](page.md) [b](page.md#a-page-and-more) [c](https://example.org) `[d](code.md)`\n"
    assert dead_links(links, page) == []
    assert dead_links("[a](gone.md) ![b](page.md#gone)\n", page) == ["gone.md", "page.md#gone"]


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


def test_a_named_block_is_a_file(tmp_path: Path) -> None:
    text = "```python two.py\ntwo = 2\n```\n```json\n[not run]\n```\n```python\nimport two\nprint(two.two)\n```\n"
    assert run_document(text + '```console\n$ cat two.py; echo ":8000"\ntwo = 2\n:8000\n```\n', tmp_path) == []
    assert (tmp_path / "two.py").read_text() == "two = 2\n"
