"""Keys of a home and its running server: made, rotated and revoked by command, in force at once, and in no file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from windlass import references, settings
from windlass.cli import main
from windlass.client import control
from windlass.records import keys as key_rows
from windlass.serving import launch
from windlass.types import spec

Cli = Callable[..., tuple[int, str, str]]
ROWS = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("h")


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main.run(["--home", str(home), *arguments])
        said = capsys.readouterr()
        return code, said.out.strip(), said.err

    return run


@pytest.fixture(scope="module")
def early(home: Path) -> str:
    """A key with every limit, made before the server starts."""
    rows = references.open_keys(settings.Settings(home=home))
    made = rows.create(key_rows.Wish("early", rate=50.0, concurrency=4, quota=30), actor="test")
    rows.close()
    return made.key


@pytest.fixture(scope="module")
def server(home: Path, packages: Any, early: str) -> Iterator[launch.Server]:
    """Two workers, as `windlass serve` starts them: with the home's keys and its pepper."""
    known, secret = references.keys_in_force(settings.Settings(home=home))
    assert [key.id for key in known] == [_id(early)]
    wanted = spec.Spec(
        endpoints=(packages.echo("numbers"), packages.echo("other")),
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        keys=known,
        key_pepper=secret,
        workers=2,
        access_log=True,
        state=str(home / "state"),
    )
    with launch.Server(wanted, home, log=home / "log") as found:
        yield found


def _ask(server: launch.Server, text: str, model: str = "numbers") -> int:
    # A new connection each time, so that either worker may be asked.
    answer = httpx.post(f"{server.url}/v2/models/{model}/infer", json=ROWS, headers={"x-api-key": text}, timeout=20)
    return answer.status_code


def _id(text: str) -> str:
    return text.split("_")[1]


def test_a_key_with_limits_is_good_from_the_first_request(server: launch.Server, early: str, home: Path) -> None:
    assert [_ask(server, early) for _ in range(8)] == [200] * 8
    give_up = time.monotonic() + 10
    file = home / "state" / "quotas.json"
    while time.monotonic() < give_up and not (file.exists() and f'"{_id(early)}":8' in file.read_text()):
        time.sleep(0.05)
    assert f'"{_id(early)}":8' in file.read_text()
    # The day's 30 are the same 30 for both workers.
    answers = [_ask(server, early) for _ in range(40)]
    assert answers.count(200) <= 22
    time.sleep(0.3)
    answers += [_ask(server, early) for _ in range(20)]
    assert answers.count(200) == 22
    assert set(answers) == {200, 429}


def test_a_key_is_good_as_soon_as_it_is_printed(server: launch.Server, cli: Cli) -> None:
    code, text, said = cli("keys", "create", "first", "--model", "num*")
    assert code == 0, said
    assert text not in said
    assert [_ask(server, text) for _ in range(6)] == [200] * 6
    assert _ask(server, text, "other") == 404
    # A server that has keys asks for one.
    assert [_ask(server, "") for _ in range(6)] == [401] * 6


@pytest.mark.promise("P-17")
def test_both_secrets_are_good_until_the_old_one_is_ended(server: launch.Server, cli: Cli) -> None:
    _, old, _ = cli("keys", "create", "turning")
    code, new, said = cli("keys", "rotate", _id(old))
    assert code == 0, said
    assert new != old
    assert [_ask(server, text) for text in (old, new) * 4] == [200] * 8
    assert cli("keys", "rotate", _id(old), "--end-old")[0] == 0
    assert [_ask(server, text) for text in (old, new) * 4] == [401, 200] * 4


@pytest.mark.promise("P-17")
def test_a_revoked_key_succeeds_nowhere_after_the_command_returns(server: launch.Server, cli: Cli) -> None:
    _, doomed, _ = cli("keys", "create", "doomed")
    _, kept, _ = cli("keys", "create", "kept")
    stamps: list[tuple[float, str, int]] = []
    stop = threading.Event()

    def load(text: str) -> None:
        with httpx.Client(base_url=server.url, headers={"x-api-key": text}, timeout=20) as client:
            while not stop.is_set():
                status = client.post("/v2/models/numbers/infer", json=ROWS).status_code
                stamps.append((time.monotonic(), text, status))

    threads = [threading.Thread(target=load, args=(text,)) for text in (doomed, kept) * 3]
    for thread in threads:
        thread.start()
    time.sleep(0.4)
    code, _, said = cli("keys", "revoke", _id(doomed))
    returned = time.monotonic()
    time.sleep(1.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert code == 0, said
    seen = {text: [(at - returned, status) for at, one, status in stamps if one == text] for text in (doomed, kept)}
    assert {status for at, status in seen[doomed] if at < -0.3} == {200}
    assert {status for _, status in seen[doomed]} == {200, 401}
    assert [at for at, status in seen[doomed] if status == 200 and at > 0] == []
    # Nobody else notices.
    assert {status for _, status in seen[kept]} == {200}


def test_limits_hold_over_both_workers(server: launch.Server, cli: Cli) -> None:
    _, text, _ = cli("keys", "create", "slow", "--rate", "4", "--burst", "8", "--quota", "1000")
    begun = time.monotonic()
    answers = []
    while time.monotonic() - begun < 2.0:
        answer = httpx.post(f"{server.url}/v2/models/numbers/infer", json=ROWS, headers={"x-api-key": text})
        answers.append((answer.status_code, answer.headers.get("retry-after")))
    took = time.monotonic() - begun
    admitted = answers.count((200, None))
    assert 8 <= admitted <= 8 + 4 * took + 1
    refused = {answer for answer in answers if answer[0] != 200}
    # How long it takes until the worker that was asked has a token.
    assert (429, "1") in refused
    assert refused <= {(429, "1"), (429, "2")}


@pytest.mark.promise("P-18")
def test_a_secret_is_in_no_file_and_no_answer_of_the_operator(server: launch.Server, home: Path, cli: Cli) -> None:
    _, text, _ = cli("keys", "create", "canary")
    _, second, _ = cli("keys", "rotate", _id(text))
    for one in (text, second, text[:-1] + "x"):
        for path in ("/v2/models/numbers/infer", "/v2/models/none/infer", "/nowhere", f"/v2?key={one}"):
            httpx.post(f"{server.url}{path}", json=ROWS, headers={"authorization": f"Bearer {one}"}, timeout=20)
            httpx.get(f"{server.url}{path}", headers={"authorization": f"Basic {one}"}, timeout=20)
    talk = control.Control(server.control)
    told = [httpx.get(f"{server.admin_url}{path}").text for path in ("/metrics", "/status", "/health")]
    told += [str(talk.status()), str(talk.current())]
    talk.close()
    told += [out + err for _, out, err in (cli("keys", "list"), cli("--json", "keys", "list"))]
    time.sleep(0.5)
    found = {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert any(path.endswith("registry.db") for path in found)
    assert any(b'"status"' in data for path, data in found.items() if path.endswith("log"))
    for one in (text, second):
        secret = one.split("_", 2)[2]
        assert [place for place in told if secret in place] == []
        assert [path for path, data in found.items() if secret.encode() in data] == []
        # The HMAC is in the database and in what the operator may ask, the pepper beside it in a file of its own.
        assert _id(one) in told[-1]
    limits = Path(f"/proc/{server.pid}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
