"""`windlass keys`: what each command prints and keeps, how it ends, and what it says of servers that do not confirm."""

from __future__ import annotations

import json
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from windlass import errors
from windlass.cli import main
from windlass.records import keys as key_rows
from windlass.security import keys, pepper
from windlass.serving import launch
from windlass.types import spec

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main.run(["--home", str(tmp_path), *arguments])
        said = capsys.readouterr()
        return code, said.out.strip(), said.err

    return run


@pytest.mark.promise("P-18")
def test_a_key_is_printed_once_and_kept_as_an_hmac(cli: Cli, tmp_path: Path) -> None:
    code, text, said = cli("keys", "create", "alice")
    assert code == 0
    parsed = keys.parse(text)
    assert parsed is not None
    assert parsed[1] not in said
    assert all(parsed[1].encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    secret = tmp_path / pepper.FILE
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    rows = key_rows.Keys.open_at(f"sqlite:///{tmp_path / 'registry.db'}", secret.read_text())
    (live,) = rows.live()
    rows.close()
    assert live == spec.Key(parsed[0], keys.hmac_of(text, bytes.fromhex(secret.read_text())))


def test_a_key_may_what_it_was_made_for(cli: Cli) -> None:
    made = cli(
        *("--json", "keys", "create", "bob", "--model", "a-*", "--model", "b", "--scope", "model:predict"),
        *("--expires", "30d", "--rate", "2.5", "--burst", "10", "--concurrency", "4", "--quota", "1000"),
    )
    assert json.loads(made[1])["name"] == "bob"
    code, out, _ = cli("--json", "keys", "list")
    (listed,) = json.loads(out)
    assert code == 0
    assert listed["scopes"] == ["model:predict"]
    assert listed["models"] == ["a-*", "b"]
    assert (listed["rate"], listed["burst"], listed["concurrency"], listed["quota"]) == (2.5, 10, 4, 1000)
    assert abs(listed["expires_at"] - time.time() - 30 * 86_400) < 60
    assert not {"hmac", "second_hmac", "key"} & set(listed)
    code, out, _ = cli("keys", "list")
    assert "2.5/s burst 10, 4 at once, 1000 a day" in out
    assert out.splitlines()[1].split()[-1] == "live"


def test_a_key_is_rotated_and_revoked(cli: Cli, tmp_path: Path) -> None:
    _, old, _ = cli("keys", "create", "carol")
    identity = old.split("_")[1]

    def live() -> list[tuple[str, str]]:
        rows = key_rows.Keys.open_at(f"sqlite:///{tmp_path / 'registry.db'}", pepper.of_home(tmp_path))
        found = [(key.hmac, key.second_hmac) for key in rows.live()]
        rows.close()
        return found

    def stored(text: str) -> str:
        return keys.hmac_of(text, bytes.fromhex(pepper.of_home(tmp_path)))

    _, new, said = cli("keys", "rotate", identity)
    assert f"keys rotate {identity} --end-old" in said
    assert live() == [(stored(new), stored(old))]
    assert cli("keys", "list")[1].splitlines()[1].split()[-1] == "rotating"
    assert cli("keys", "rotate", identity, "--end-old")[0] == 0
    assert live() == [(stored(new), "")]
    assert cli("keys", "revoke", identity)[:2] == (0, f"{identity} is revoked")
    assert cli("keys", "revoke", identity)[0] == 0
    assert live() == []
    assert cli("keys", "list")[1].splitlines()[1].split()[-1] == "revoked"
    code, _, said = cli("keys", "rotate", identity)
    assert code == 3
    assert "is revoked" in said
    # Its name is free again.
    assert cli("keys", "create", "carol")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("create", "twice"), 5, "already"),
        (("create", ""), 2, "1 to 128"),
        (("create", "a\nb"), 2, "printable"),
        (("create", "x", "--expires", "soon"), 2, "30d"),
        (("create", "x", "--expires", "-3d"), 2, "30d"),
        (("create", "x", "--rate", "-1"), 2, "not below 0"),
        (("create", "x", "--rate", "nan"), 2, "not below 0"),
        (("create", "x", "--rate", "inf"), 2, "nor above"),
        (("create", "x", "--quota", "9" * 30), 2, "nor above"),
        (("create", "x", "--burst", "5"), 2, "--rate"),
        (("create", "x", "--scope", "admin"), 2, "admin"),
        (("rotate", "none"), 3, "keys list"),
        (("revoke", "none"), 3, "keys list"),
        (("rotate", "none", "--end-old"), 3, "keys list"),
    ],
)
def test_what_is_wrong_is_told(cli: Cli, arguments: tuple[str, ...], code: int, told: str) -> None:
    assert cli("keys", "create", "twice")[0] == 0
    found, out, said = cli("keys", *arguments)
    assert found == code
    assert out == ""
    assert told in said
    assert len(cli("keys", "list")[1].splitlines()) == 2


def test_keys_that_ended_are_not_told(cli: Cli, tmp_path: Path) -> None:
    now = [1_000.0]
    assert cli("keys", "list")[0] == 0
    rows = key_rows.Keys.open_at(f"sqlite:///{tmp_path / 'registry.db'}", pepper.of_home(tmp_path))
    rows._clock = lambda: now[0]
    rows.create(key_rows.Wish("short", expires_at=1_060.0), actor="a")
    now[0] = 1_059.0
    assert len(rows.live()) == 1
    now[0] = 1_060.0
    assert rows.live() == ()
    rows.close()


def test_one_pepper_whoever_comes_first(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(pepper.of_home(tmp_path))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [pepper.FILE]


def test_a_pepper_that_is_open_or_broken_is_not_used(tmp_path: Path) -> None:
    pepper.of_home(tmp_path)
    path = tmp_path / pepper.FILE
    path.chmod(0o644)
    with pytest.raises(errors.NotAllowed, match="read by others"):
        pepper.of_home(tmp_path)
    path.chmod(0o600)
    for text in ("", "00" * 31, "zz" * 32):
        path.write_text(text)
        with pytest.raises(errors.CorruptPackage, match="damaged"):
            pepper.of_home(tmp_path)


@pytest.mark.promise("P-17")
def test_a_server_that_does_not_confirm_is_named(cli: Cli, tmp_path: Path) -> None:
    _, text, _ = cli("keys", "create", "dora")
    own = spec.Spec(endpoints=(), listen="127.0.0.1:1234", key_pepper=pepper.of_home(tmp_path))
    foreign = spec.Spec(endpoints=(), listen="127.0.0.1:5678", key_pepper="ab" * 32)
    listening, asked = [], []

    def hang_up(one: socket.socket, name: str) -> None:
        while True:
            try:
                accepted, _ = one.accept()
            except OSError:
                return
            if accepted.recv(1):
                asked.append(name)
            accepted.close()

    for wanted in (own, foreign):
        path = launch.prepare(wanted, tmp_path)
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.bind(str(path.with_suffix(".sock")))
        one.listen()
        listening.append(one)
        threading.Thread(target=hang_up, args=(one, wanted.listen), daemon=True).start()
    code, out, said = cli("keys", "revoke", text.split("_")[1])
    for one in listening:
        one.shutdown(socket.SHUT_RDWR)
        one.close()
    assert code == 6
    assert out == ""
    assert "127.0.0.1:1234" in said
    assert "127.0.0.1:5678" not in said
    assert asked == ["127.0.0.1:1234"]
    assert cli("keys", "list")[1].splitlines()[1].split()[-1] == "revoked"
