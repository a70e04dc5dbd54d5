"""Deployments, audit and revocation from the command line: on a home's rows, and through the API with `--server`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from starlette import testclient

from windlass import references, settings
from windlass.api import app as apps
from windlass.cli import main
from windlass.client import plane
from windlass.desired import deployments
from windlass.packaging import build, draft
from windlass.records import deployments as stored
from windlass.records import keys as key_rows
from windlass.storage import database, tables
from windlass.types import deployment as types
from windlass.types import evidence, signature, tensor

Cli = Callable[..., tuple[int, str, str]]
X = signature.TensorSpec("x", "FP32", ("batch", 4))


def package(seed: int, width: int = 4) -> Any:
    x = signature.TensorSpec("x", "FP32", ("batch", width))
    y = signature.TensorSpec("y", "FP32", ("batch", width))
    rows: tensor.Array = np.full((2, width), seed, np.float32)
    said = json.dumps({"inputs": [_spec(x)], "outputs": [_spec(y)]}).encode()
    trials = (draft.Trial("rows", {"x": rows}, {"y": rows}),)
    made = draft.Draft({"echo.json": said}, signature.Signature((x,), (y,)), trials, framework="echo", runtime="echo")
    return build.build(made, name="fraud", limits=None)


def _spec(found: signature.TensorSpec) -> dict[str, Any]:
    return {"name": found.name, "datatype": found.datatype, "shape": list(found.shape)}


class Through(httpx.BaseTransport):
    """Hands each request to an application in this process."""

    def __init__(self, client: testclient.TestClient) -> None:
        self._client = client

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        answer = self._client.request(request.method, str(request.url), content=body, headers=dict(request.headers))
        return httpx.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Four versions of `fraud`: two READY, one NEW, one READY that takes other inputs."""
    path = tmp_path / "home"
    registry = references.open_registry(settings.Settings(home=path))
    with contextlib.closing(registry):
        for seed, width, checked in ((1, 4, True), (2, 4, True), (3, 4, False), (4, 7, True)):
            made = package(seed, width)
            found = [evidence.Evidence(made.digest, "parity", "passed")] if checked else []
            registry.push(made, name="fraud", actor="ann", evidence=found)
    return path


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main.run(["--home", str(home), *arguments])
        said = capsys.readouterr()
        return code, said.out.strip(), said.err

    return run


@pytest.fixture
def far(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Cli]:
    """The same commands through the API, asked in process, from a home that has nothing."""
    configuration = settings.Settings(home=home)
    with (
        contextlib.closing(database.open_database(configuration.database_url)) as rows,
        contextlib.closing(references.open_registry(configuration)) as registry,
        contextlib.closing(references.open_keys(configuration)) as keys,
    ):
        key = keys.create(key_rows.Wish("admin", scopes=key_rows.SCOPES), actor="ann").key
        wishes = deployments.Deployments(rows, registry)
        app = apps.create(apps.Plane(rows, registry, wishes, keys, configuration))
        with testclient.TestClient(app, base_url="http://127.0.0.1:8080") as client:
            made = plane.Plane

            def connect(url: str, **more: Any) -> plane.Plane:
                return made(url, transport=Through(client), sleep=lambda _: None, **more)

            monkeypatch.setattr(plane, "Plane", connect)
            monkeypatch.setenv("WINDLASS_SERVER", "http://127.0.0.1:8080")
            monkeypatch.setenv("WINDLASS_CLIENT__KEY", key)

            def run(*arguments: str) -> tuple[int, str, str]:
                code = main.run(["--home", str(tmp_path / "nothing"), *arguments])
                said = capsys.readouterr()
                return code, said.out.strip(), said.err

            yield run
    assert not (tmp_path / "nothing" / "registry.db").exists()


@pytest.fixture(params=["here", "far"])
def either(request: pytest.FixtureRequest) -> Cli:
    found: Cli = request.getfixturevalue("cli" if request.param == "here" else "far")
    return found


def test_the_same_wish_again_changes_nothing(either: Cli, tmp_path: Path) -> None:
    code, out, _ = either("deploy", "fraud", "fraud@1", "--reason", "first", "--json")
    assert code == 0
    assert json.loads(out)["generation"] == 1
    code, out, said = either("deploy", "fraud", "fraud@1", "--json")
    assert (code, json.loads(out)["generation"]) == (0, 1)
    assert "Nothing changes" in said
    file = tmp_path / "deployment.toml"
    file.write_text('name = "fraud"\nref = "fraud@2"\n\n[strategy]\nkind = "canary"\nsteps = [10]\n')
    for generation in (2, 2):
        code, out, said = either("deploy", "-f", str(file), "--json")
        assert (code, json.loads(out)["generation"]) == (0, generation)
    assert "Nothing changes" in said


def test_what_is_taken_away_is_wanted_no_more(either: Cli) -> None:
    _, out, _ = either("deploy", "fraud", "fraud@1")
    assert out == "fraud: fraud@1 by recreate, generation 1, wanted; nothing is live"
    assert either("deploy", "fraud", "fraud@2", "--remove")[0] == 2
    assert either("deploy", "--remove")[0] == 2
    assert either("deploy", "fraud", "--remove", "--if-generation", "7")[0] == 5
    assert either("deploy", "fraud", "--remove", "--reason", "over")[0] == 0
    assert either("rollout", "status", "fraud")[0] == 3
    assert either("deploy", "fraud", "--remove")[0] == 3


def test_without_a_controller_it_is_said_that_nothing_moves(cli: Cli) -> None:
    code, out, said = cli("deploy", "fraud", "fraud@1")
    assert code == 0
    assert "generation 1" in out
    assert "no controller is running" in said
    assert "windlass up" in said


def test_a_plan_shows_changes_and_steps_and_changes_nothing(either: Cli) -> None:
    code, out, _ = either("deploy", "fraud", "fraud@2", "--to", "10%", "--plan", "--rate", "100", "--bad", "0.01")
    assert code == 0
    for part in ("live now: nothing", "'fraud' is new", "1. Load version 2"):
        assert part in out
    assert either("rollout", "status")[1].startswith("nothing is deployed")


@pytest.mark.parametrize(
    ("ref", "words", "way"),
    [("fraud@3", "never verified|not READY|NEW", "windlass verify fraud@3"), ("fraud@4", "takes|input", "--force")],
)
def test_what_is_not_fit_is_refused_with_the_reason_and_the_way_out(
    either: Cli, home: Path, ref: str, words: str, way: str
) -> None:
    live = json.loads(either("deploy", "fraud", "fraud@1", "--json")[1])["desired"]["release"]
    seen = types.Status(1, "LIVE", msgspec.convert(live, types.Release), {"1": 100.0})
    with contextlib.closing(database.open_database(f"sqlite:///{home / 'registry.db'}")) as rows, rows.write() as c:
        stored.observe(c, "fraud", seen)
    code, out, said = either("deploy", "fraud", ref)
    assert (code, out) == (4, ""), said
    assert any(word in said for word in words.split("|")), said
    assert way in said, said
    assert either("deploy", "fraud", ref, "--plan")[0] == 4


def test_what_was_revoked_cannot_be_deployed_and_the_registry_says_who_held_it(either: Cli) -> None:
    digest = json.loads(either("models", "show", "fraud@2", "--json")[1])["version"]["digest"]
    assert "fraud@2 (READY)" in either("audit", "who", digest)[1]
    code, out, said = either("models", "revoke", "fraud@2", "--reason", "poisoned", "--yes")
    assert code == 0, said
    assert "fraud@2" in out
    code, _, said = either("deploy", "fraud", "fraud@2")
    assert code == 4
    assert "poisoned" in said
    assert "QUARANTINED" in either("audit", "who", digest)[1]


def test_two_people_who_change_one_deployment_are_told_of_each_other(either: Cli) -> None:
    assert either("deploy", "fraud", "fraud@1", "--if-generation", "0", "--reason", "mine")[0] == 0
    code, _, said = either("deploy", "fraud", "fraud@2", "--if-generation", "0")
    assert code == 5
    assert "generation 1" in said
    assert "mine" in said


def test_every_change_is_in_the_audit_log_and_a_changed_entry_is_found(cli: Cli, home: Path) -> None:
    cli("deploy", "fraud", "fraud@1", "--reason", "for the quarter")
    entries = json.loads(cli("audit", "list", "--subject", "deployment/fraud", "--json")[1])
    assert [(e["action"], e["reason"], e["actor"]) for e in entries] == [
        ("deployment.changed", "for the quarter", references.actor())
    ]
    head = home.parent / "head.json"
    head.write_text(cli("audit", "head")[1])
    assert cli("audit", "verify", "--head", str(head))[0] == 0
    with contextlib.closing(database.open_database(f"sqlite:///{home / 'registry.db'}")) as rows, rows.write() as c:
        table = tables.audit
        c.execute(sa.update(table).where(table.c.reason == "for the quarter").values(reason="for fun"))
    code, _, said = cli("audit", "verify", "--head", str(head))
    assert code == 1
    assert f"entry {entries[0]['number']}" in said


def test_the_api_s_words_and_exit_codes_come_through(far: Cli) -> None:
    assert far("models", "show", "froud@1")[0] == 3
    assert far("deploy", "fraud", "fraud@9")[0] == 3
    assert far("rollback", "nothing")[0] == 3
    code, _, said = far("models", "gc")
    assert code == 1
    assert "Leave out --server" in said


def test_a_package_goes_out_and_comes_back_through_the_api(far: Cli, cli: Cli, tmp_path: Path) -> None:
    code, _, said = far("models", "export", "fraud@2", str(tmp_path / "two.windlass"))
    assert code == 0, said
    shown = json.loads(far("inspect", "fraud@2", "--json")[1])
    assert json.loads(cli("inspect", str(tmp_path / "two.windlass"), "--json")[1]) == shown


def test_keys_are_made_listed_and_ended_through_the_api(far: Cli) -> None:
    made = json.loads(far("--json", "keys", "create", "bob", "--scope", "model:read")[1])
    assert made["key"].startswith("wl_")
    listed = json.loads(far("--json", "keys", "list")[1])
    assert {key["name"] for key in listed} == {"admin", "bob"}
    assert made["key"] not in far("keys", "list")[1]
    assert far("keys", "revoke", made["id"], "--reason", "left")[0] == 0
    assert "revoked" in far("keys", "list")[1]


def test_a_far_version_is_run_here(far: Cli, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{"x": [0.0] * 4, "label": 0}] * 30))
    code, _, said = far("check", "fraud@1", "--data", str(tmp_path / "rows.json"), "--labels", "label")
    assert "fetching fraud@1" in said
    assert code in (0, 4), said
