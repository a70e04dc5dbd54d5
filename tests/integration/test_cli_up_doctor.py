"""What `windlass up` refuses before anything starts, how it ends, and what `windlass doctor` finds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from windlass import errors, references, settings
from windlass.cli import checks, checks_security, doctor, main, output, up
from windlass.records import keys as key_rows
from windlass.records import leases
from windlass.security import pepper
from windlass.serving import launch
from windlass.storage import database

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main.run(["--home", str(tmp_path / "home"), *arguments])
        said = capsys.readouterr()
        return code, said.out.strip(), said.err

    return run


@pytest.mark.parametrize("where", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_are_not_let_in_without_tls(cli: Cli, tmp_path: Path, where: str) -> None:
    code, out, said = cli("up", "--host", where, "--port", "0", "--serve-port", "0", "--admin-port", "0")
    assert (code, out) == (7, "")
    assert "--tls-cert" in said
    assert not (tmp_path / "home").exists()


def test_a_taken_port_is_said_and_no_key_is_left_that_nobody_saw(cli: Cli, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, out, said = cli("up", "--port", port, "--serve-port", "0", "--admin-port", "0")
    assert (code, out) == (6, "")
    assert port in said
    assert "windlass doctor" in said
    assert launch.find(tmp_path / "home") is None
    (key,) = json.loads(cli("keys", "list", "--json")[1])
    assert key["revoked_at"] is not None


@pytest.mark.parametrize("command", [("up", "--port", "0"), ("rollout", "status")])
def test_a_home_that_cannot_be_is_said_without_a_traceback(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "home").write_text("a file")
    code, out, said = cli(*command)
    assert (code, out) == (6, "")
    assert f"{tmp_path / 'home'}: File exists." in said


def test_up_acts_on_the_home_of_this_machine_alone(cli: Cli) -> None:
    code, _, said = cli("--server", "http://127.0.0.1:1", "up")
    assert code == 1
    assert "Leave out --server" in said


def test_an_admin_key_is_made_once_and_may_everything(tmp_path: Path) -> None:
    configuration = settings.Settings(home=tmp_path)
    with contextlib.closing(references.open_keys(configuration)) as keys:
        with up._admin(keys) as made:
            made.told = True
        (live,) = keys.every()
        assert set(live.scopes) == set(key_rows.SCOPES)
        assert live.models == ("*",)
        assert keys.authenticate(made.key) == live
        with up._admin(keys) as again:
            assert again.key == ""
        keys.revoke(live.id, actor="ann")
        with up._admin(keys) as new:
            new.told = True
        assert new.key not in ("", made.key)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_is_remembered(number: int) -> None:
    stop = threading.Event()
    before = signal.getsignal(number)
    with up._signals(stop) as caught:
        signal.raise_signal(number)
        assert stop.is_set()
        assert caught == [number]
    assert signal.getsignal(number) is before


def test_only_ctrl_c_takes_the_server_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[Path] = []
    monkeypatch.setattr(launch, "stop", lambda home, name: stopped.append(home))
    context = output.Context(settings.Settings(home=tmp_path), quiet=True)
    up._end(context, context.settings, keep=True)
    assert stopped == []
    up._end(context, context.settings, keep=False)
    assert stopped == [tmp_path]
    # Another control plane of this home is at work: the server is its.
    with contextlib.closing(database.open_database(context.settings.database_url)) as rows, rows.write() as connection:
        leases.acquire(connection, leases.CONTROLLER, "another", ttl_s=60, now=time.time())
    up._end(context, context.settings, keep=False)
    assert stopped == [tmp_path]


def test_a_home_that_is_well_has_nothing_wrong_and_is_not_touched(cli: Cli, tmp_path: Path) -> None:
    ports = ("serve", "up")
    code, out, _ = cli("doctor", "--json")
    assert code == 0
    report = json.loads(out)
    assert {s["name"].partition(".")[0] for s in report["settings"]} >= {"home", *ports}
    assert all(f["state"] != "wrong" for f in report["findings"]), report
    assert not (tmp_path / "home").exists()


def test_what_is_wrong_is_said_with_what_to_do(cli: Cli, tmp_path: Path) -> None:
    home, hook = tmp_path / "home", tmp_path / "hook"
    cli("keys", "create", "soon", "--expires", "1d")
    (home / pepper.FILE).chmod(0o644)
    (home / "trusted").mkdir()
    (home / "trusted").chmod(0o777)
    hook.write_text("short")
    (tmp_path / "windlass.toml").write_text(f'[[webhooks]]\nurl = "http://x"\nsecret_file = "{hook}"\n')
    code, out, _ = cli("doctor", "--security", "--json")
    assert code == 1
    wrong = [f for f in json.loads(out)["findings"] if f["state"] == "wrong"]
    said = "\n".join(f"{f['value']} {f['mend']}" for f in wrong)
    for part in (f"chmod 600 {home / pepper.FILE}", f"chmod go-w {home / 'trusted'}", f"{hook} can be read by others"):
        assert part in said
    assert all(f["mend"] for f in wrong)
    (home / pepper.FILE).chmod(0o600)
    (home / "trusted").chmod(0o700)
    hook.chmod(0o600)
    code, out, _ = cli("doctor", "--security")
    assert code == 1
    assert "fewer than 24 bytes" in out
    assert "ends in 1.0 days" in out


def test_a_damaged_database_and_a_taken_port_are_found(cli: Cli, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "registry.db").write_bytes(b"no database" * 1000)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        configuration = settings.Settings(home=home, up=settings.Up(port=taken.getsockname()[1]))
        found = {f.name: f for f in checks.safely(checks.ports, configuration, 0.0)}
    assert found["API's port"].state == "warning"
    assert "process" in found["API's port"].value
    code, out, said = cli("doctor")
    assert code == 1
    assert "damaged" in out
    assert "found something wrong" in said


def test_a_check_that_fails_is_a_finding() -> None:
    def breaks(_: settings.Settings, __: float) -> list[checks.Finding]:
        raise errors.Unavailable("it is so", hint="do this")

    assert checks.safely(breaks, settings.Settings(), 0.0) == [checks.Finding("breaks", "wrong", "it is so", "do this")]


def test_what_a_doctor_says_can_be_shown_around(tmp_path: Path) -> None:
    hook = settings.Webhook(url="https://hooks.example/services/T0/SECRET", secret_file=tmp_path / "secret")
    place = settings.Registry(db="postgresql://ann:SECRET@db/windlass", store="s3://id:SECRET@bucket/models")
    client = settings.Client(key="wl_SECRET")
    found = settings.Settings(home=tmp_path, webhooks=(hook,), registry=place, client=client)
    said = str(doctor.values(found)) + str(list(checks_security.webhooks(found, 0.0)))
    assert "SECRET" not in said
    assert "https://hooks.example" in said


def test_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        references.open_keys(settings.Settings(home=tmp_path)).close()
    finally:
        os.umask(before)
    assert [oct(path.stat().st_mode & 0o777) for path in tmp_path.glob("registry.db*")] == ["0o600"]
