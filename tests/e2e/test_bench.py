"""`windlass bench` on a running server: every protocol it speaks, accounts that agree, errors that tell."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windlass.cli import main
from windlass.client import inputs, load, targets

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any], packages: Any) -> Any:
    return start_server(packages.mlp("mlp"))


@pytest.mark.parametrize("protocol", ["oip", "oip-binary", "oip-grpc", "tfserving", "plain"])
def test_every_protocol_is_asked_and_counted_as_the_server_counts(server: Any, protocol: str) -> None:
    before = server.outcomes()["ok"]
    target = targets.find(f"{server.url}/mlp", protocol, targets.Access())
    probes = server.outcomes()["ok"] - before
    opened = load.Load(load.opened(target, rate=300, seconds=0.3)).start().wait()
    closed = load.Load(load.closed(target, connections=2, streams=4, seconds=0.3)).start().wait()
    assert probes >= 1
    assert opened.lost == closed.lost == 0
    assert opened.answered == opened.scheduled > 50
    assert closed.answered > 50
    assert server.outcomes()["ok"] - before == probes + opened.answered + closed.answered


def test_a_busy_grpc_server_is_asked_in_streams_and_large_messages_wait_for_windows(server: Any) -> None:
    made = inputs.at_random([inputs.Wanted("x", "FP32", (-1, 30))], inputs.Size(rows=32), 1)
    target = targets.find(f"{server.url}/mlp", "oip-grpc", targets.Access(), given=[made])
    told = load.Load(load.closed(target, connections=1, streams=32, seconds=0.5)).start().wait()
    assert told.lost == 0
    assert told.answered > 100
    assert set(told.statuses) == {0}


class Page(html.parser.HTMLParser):
    """What a page refers to, and its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]


def test_a_comparison_as_json_and_as_a_page(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, url = tmp_path / "bench.html", f"{server.url}/mlp"
    options = ["--rate", "1500", "--seconds", "0.15", "--price", "0.5", "--html", str(page), "--json", "--quiet"]
    assert main.run(["--home", str(tmp_path), "bench", url, url, *options]) in (0, 4)
    told = json.loads(capsys.readouterr().out)
    assert [len(each["points"]) for each in told["subjects"]] == [1, 1]
    assert told["machine"]["cores"] >= 1
    for each in told["subjects"]:
        outcomes = each["points"][0]["outcomes"]
        assert outcomes["ok"] == sum(outcomes.values()) > 500
        assert each["points"][0]["p99.9_ms"] is None, "ten thousand samples are not there"
    read = Page()
    read.feed(page.read_text())
    assert read.references == []
    assert "://" not in page.read_text().replace(server.url, "")
    assert {"svg", "table"} <= set(read.tags) or all(each["points"][0]["doubt"] for each in told["subjects"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["http://127.0.0.1:1/mlp"], 6, "No answer from"),
        (["{url}/nobody"], 3, "nobody"),
        (["{url}"], 2, "names no model"),
        (["{url}/mlp", "--protocol", "torchserve"], 2, "--input"),
        (["{url}/mlp", "--slo-p99", "soon"], 2, "no time"),
        (["{url}/mlp", "--tune"], 2, "REF"),
        (["{url}/mlp", "{url}/mlp", "{url}/mlp"], 2, "two"),
        (["{url}/mlp", "--rounds", "2"], 2, "rounds"),
        (["{url}/mlp", "--input", "gone.json"], 3, "gone.json"),
        (["{url}/mlp", "--protocol", "raw", "--input", "{file}"], 3, "404"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    file = tmp_path / "one.json"
    file.write_text("{}")
    given = [argument.format(url=server.url, file=file) for argument in arguments]
    assert main.run(["--home", str(tmp_path), "bench", *given]) == code
    assert says in capsys.readouterr().err


def test_a_contract_that_is_not_met_is_told_in_the_server_s_words(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.json"
    file.write_text('{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}')
    assert main.run(["--home", str(tmp_path), "bench", f"{server.url}/mlp", "--input", str(file)]) == 2
    assert "'x'" in capsys.readouterr().err
