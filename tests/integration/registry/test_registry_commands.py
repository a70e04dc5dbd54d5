"""`windlass models`: what each command shows, in text and JSON, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass import references
from windlass.cli import main, models
from windlass.packaging import archive
from windlass.registry import registry as registries

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main.run(["--home", str(tmp_path), *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def filled(tmp_path: Path, push: Callable[..., Any]) -> None:
    registry = registries.Registry.open(tmp_path)
    for content in "abc":
        push(registry, content, tags={"content": content})
    registry.close()


@pytest.mark.usefixtures("filled")
def test_list(run: Run) -> None:
    assert run("models", "alias", "digits", "production", "2", "--reason", "first") == (
        0,
        "digits:production -> @2\n",
        "",
    )
    code, out, _ = run("models", "list")
    assert code == 0
    assert out.splitlines()[1].split() == ["digits", "3", "3", "production=@2"]
    code, out, _ = run("models", "list", "digits")
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["3", "READY"], ["2", "READY"], ["1", "READY"]]
    code, out, _ = run("--json", "models", "list")
    assert json.loads(out)[0]["aliases"] == {"production": 2}


@pytest.mark.usefixtures("filled")
def test_show(run: Run) -> None:
    code, out, _ = run("models", "show", "digits@1")
    assert code == 0
    for part in (
        "digits@1  READY",
        "x: FP32 [batch, 4]",
        "y: FP32 [batch, 2]",
        "parity passed",
        "content=a",
        "test 1.0",
    ):
        assert part in out
    code, out, _ = run("--json", "models", "show", "digits")
    shown = json.loads(out)
    assert (shown["version"]["version"], shown["evidence"][0]["evidence"]["verdict"]) == (3, "passed")


@pytest.mark.usefixtures("filled")
def test_history_answers_what_was_in_production_who_moved_it_and_why(run: Run) -> None:
    run("models", "alias", "digits", "production", "1", "--reason", "first release")
    run("models", "alias", "digits", "production", "2", "--reason", "better")
    run("models", "alias", "digits", "production", "--rollback", "--reason", "errors at noon")
    code, out, _ = run("models", "history", "digits")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [row[4:7] for row in rows] == [["move", "-", "@1"], ["move", "@1", "@2"], ["rollback", "@2", "@1"]]
    assert {row[7] for row in rows} == {references.actor()}
    events = json.loads(run("--json", "models", "history", "digits")[1])
    code, out, _ = run("--json", "models", "history", "digits", "production", "--at", "2999-01-01T00:00")
    assert json.loads(out) == [events[-1]]
    assert events[-1]["reason"] == "errors at noon"
    code, _, err = run("models", "history", "digits", "--at", "2001-01-01T14:03")
    assert code == 3
    assert "had no alias" in err


@pytest.mark.usefixtures("filled")
def test_alias_says_what_is_wrong(run: Run) -> None:
    assert run("models", "alias", "digits", "production")[0] == 2
    assert run("models", "alias", "digits", "production", "1", "--rollback")[0] == 2
    assert run("models", "alias", "digits", "production", "9")[0] == 3
    assert run("models", "alias", "digits", "production", "1", "--if-generation", "4")[0] == 5
    assert run("models", "alias", "digits", "production", "--rollback")[0] == 5
    assert run("models", "alias", "digits", "../production", "1")[0] == 2
    assert run("models", "alias", "digits", "production", "1")[0] == 0
    assert run("models", "alias", "digits", "production", "--remove") == (
        0,
        "digits:production -> -\n",
        "Servers that followed it keep what they have.\n",
    )


@pytest.mark.usefixtures("filled")
def test_delete_asks_for_a_number_and_says_what_is_gone(run: Run) -> None:
    assert run("models", "delete", "digits", "--yes")[0] == 2
    code, out, _ = run("models", "delete", "digits@1", "--yes", "--reason", "licence")
    assert (code, "2 blobs gone" in out, "2 kept" in out) == (0, True, True)
    assert "licence" in run("models", "list", "digits")[1]
    run("models", "alias", "digits", "production", "2")
    assert run("models", "delete", "digits@2", "--yes")[0] == 5


@pytest.mark.usefixtures("filled")
def test_gc_scrub_and_rebuild(run: Run, tmp_path: Path) -> None:
    assert run("models", "gc", "--grace", "0")[1].startswith("0 blobs put into the trash")
    assert run("models", "scrub")[:2] == (0, "every blob is whole\n")
    (tmp_path / "registry.db").unlink()
    code, out, _ = run("models", "rebuild")
    assert (code, out) == (0, "3 versions restored, 0 in quarantine, 0 were deleted before\n")
    for blob in (tmp_path / "blobs" / "sha256").rglob("*"):
        if blob.is_file() and blob.read_bytes() == b"b":
            blob.chmod(0o600)
            blob.write_bytes(b"c")
    code, out, err = run("models", "scrub")
    assert (code, len(out.splitlines())) == (1, 1)
    assert "quarantine" in err
    assert run("models", "export", "digits@2", "x.windlass")[0] == 7


def test_import_and_export(run: Run, tmp_path: Path, make_package: Callable[..., Any]) -> None:
    package = make_package("w")
    archive.write_zip(package, tmp_path / "in.windlass")
    code, out, _ = run("models", "import", "in.windlass", "--no-verify")
    assert (code, out) == (0, f"digits@1  {package.digest}\n")
    code, out, err = run("models", "import", "in.windlass", "--no-verify", "--name", "renamed")
    assert out.startswith("renamed@1")
    assert run("models", "export", "digits@1", "out.windlass") == (0, "out.windlass\n", "")
    assert (tmp_path / "out.windlass").read_bytes() == (tmp_path / "in.windlass").read_bytes()
    assert run("models", "export", "digits@1", "out.windlass")[0] == 5
    assert run("models", "export", "digits@1", "folder")[0] == 0
    assert archive.open_path(tmp_path / "folder").digest == package.digest
    code, _, err = run("models", "import", "folder", "--no-verify")
    assert "registered before" in err


def test_a_package_that_fails_its_checks_is_not_registered(
    run: Run, tmp_path: Path, make_package: Callable[..., Any]
) -> None:
    archive.write_zip(make_package("no model at all"), tmp_path / "in.windlass")
    code, _, err = run("models", "import", "in.windlass")
    assert code == 4
    assert "not registered" in err
    assert json.loads(run("--json", "models", "list")[1]) == []


def test_times_of_day_are_in_the_past() -> None:
    noon = models.parse_time("2026-03-01T12:00", now=0.0)
    assert models.parse_time("11:00", now=noon) == noon - 3600
    assert models.parse_time("13:00", now=noon) == noon - 23 * 3600
    with pytest.raises(models.errors.UsageError):
        models.parse_time("noon", now=noon)


def test_package_refuses_a_taken_output_before_it_begins(run: Run, tmp_path: Path) -> None:
    (tmp_path / "taken.windlass").write_bytes(b"another's")
    code, _, err = run("package", "model.onnx", "--name", "m", "--output", "taken.windlass")
    assert (code, "exists already" in err) == (5, True)
    assert json.loads(run("--json", "models", "list")[1]) == []
