"""What a server lets nobody do: sockets that it opens, routes without a key, limits, slow senders, telling errors."""

from __future__ import annotations

import json
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import parser

from windlass.security import keys
from windlass.types import spec

PEPPER = "5a" * 32
ROW = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
# Paths, hosts, processes, stacks, modules, shared memory: nothing of that is for a caller.
INTERNAL = re.compile(
    r"/(home|root|usr|srv|tmp|var|etc|proc|dev|work)/|\.py\b|Traceback|line \d+|0x[0-9a-f]{6,}|\bpid\b|/dev/shm"
    r"|site-packages|onnxruntime|numpy|msgspec|sqlite|Exception|Errno|windlass_[a-z]+_[0-9a-f]{8}",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any], packages: Any) -> Any:
    limits = spec.ServerLimits(header_timeout_s=1.0, body_timeout_s=2.0, keepalive_timeout_s=2.0, max_body=100_000)
    return start_server(
        packages.echo("numbers", max_body=50_000), packages.echo("poison", fail_above=100.0), limits=limits
    )


@pytest.fixture(scope="module")
def client(server: Any) -> Any:
    with httpx.Client(base_url=server.url, timeout=20) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(start_server: Callable[..., Any], packages: Any) -> tuple[Any, str, str]:
    """A server with keys, one that may read and predict and one that may load too; and their texts."""
    (one, text), (two, other) = keys.generate(), keys.generate()
    pepper = bytes.fromhex(PEPPER)
    known = (
        spec.Key(one, keys.hmac_of(text, pepper)),
        spec.Key(two, keys.hmac_of(other, pepper), scopes=("model:read", "model:load")),
    )
    spare = packages.echo("spare")
    found = start_server(packages.echo("numbers"), keys=known, key_pepper=PEPPER, repository=(spare,))
    return found, text, other


def _sockets(pid: int) -> set[tuple[str, str]]:
    """The listening sockets of a process: (family, address or path)."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        found = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()) if link.is_symlink() else "")
        if found:
            inodes.add(found[1])
    listening = set()
    for family in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and (fields[3] == "0A" or family.startswith("udp")):
                address, port = fields[1].split(":")
                if family == "tcp":
                    address = socket.inet_ntoa(bytes.fromhex(address)[::-1])
                listening.add((family, f"{address}:{int(port, 16)}"))
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[6] in inodes and fields[3] == "00010000":
            listening.add(("unix", fields[7]))
    return listening


@pytest.mark.promise("P-01")
@pytest.mark.threat("V3")
@pytest.mark.threat("V23")
def test_a_server_listens_where_it_says_and_nowhere_else(server: Any) -> None:
    assert _sockets(server.pid) == {
        ("tcp", server.url.removeprefix("http://")),
        ("tcp", server.admin_url.removeprefix("http://")),
        ("unix", server.control),
    }
    assert server.url.startswith("http://127.0.0.1:")
    assert server.admin_url.startswith("http://127.0.0.1:")
    control = Path(server.control)
    assert stat.S_IMODE(control.stat().st_mode) & 0o177 == 0
    assert stat.S_IMODE(control.parent.stat().st_mode) == 0o700


@pytest.mark.promise("P-02")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_beyond_loopback_nothing_starts_by_itself(packages: Any, tmp_path: Path, host: str) -> None:
    package = packages.echo("numbers").arms[0].path
    line = [sys.executable, "-m", "windlass.cli.main", "--home", str(tmp_path), "serve", package, "--host", host]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 7, done.stderr
    assert "--insecure" in done.stderr
    assert "TLS" in done.stderr


@pytest.mark.promise("P-13")
def test_loading_needs_a_key_that_may(guarded: tuple[Any, str, str], client: httpx.Client) -> None:
    server, text, other = guarded
    with httpx.Client(base_url=server.url, timeout=30) as asking:
        load = "/v2/repository/models/spare/load"
        assert asking.post(load).status_code == 401
        assert asking.post(load, headers={"x-api-key": text}).status_code == 403
        assert asking.post(load, headers={"x-api-key": other}).status_code == 200
        infer = {"json": {"inputs": [ROW]}, "headers": {"x-api-key": text}}
        assert asking.post("/v2/models/spare/infer", **infer).status_code == 200
        assert asking.post(load.replace("load", "unload"), headers={"x-api-key": other}).status_code == 200
        assert asking.post("/v2/models/spare/infer", **infer).status_code in (404, 503)
    # And where there are no keys at all, nobody may.
    assert client.post("/v2/repository/models/numbers/load").status_code == 403


@pytest.mark.threat("V1")
@pytest.mark.threat("V5")
@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:1/x", "file:///etc/passwd", "../../etc/passwd", "/etc/passwd", "spare%00"]
)
def test_no_client_names_a_place(guarded: tuple[Any, str, str], name: str) -> None:
    server, _, other = guarded
    quoted = name.replace("/", "%2F").replace(":", "%3A")
    with httpx.Client(base_url=server.url, headers={"x-api-key": other}, timeout=20) as client:
        for path in (f"/v2/repository/models/{quoted}/load", f"/v2/models/{quoted}"):
            answer = client.request("POST" if path.endswith("load") else "GET", path)
            assert answer.status_code in (400, 404)
        body = {"parameters": {"config": "{}", "file:1/model.onnx": "AAAA", "url": name}}
        answer = client.post("/v2/repository/models/nothing/load", json=body)
        assert answer.status_code in (400, 404, 501)
        for setting in ({"log_file": "/tmp/owned"}, {"log_file": name}):
            assert client.post("/v2/logging", json=setting).status_code in (400, 403)


def _ask(
    body: Any = None, content: bytes | None = None, kind: str = "application/json", **headers: str
) -> dict[str, Any]:
    data = json.dumps(body).encode() if content is None else content
    return {"content": data, "headers": {"content-type": kind, **headers}}


@pytest.mark.promise("P-08")
@pytest.mark.promise("P-36c")
@pytest.mark.threat("V7")
def test_errors_have_their_status_and_say_nothing_internal(client: httpx.Client) -> None:
    infer, predict = "/v2/models/numbers/infer", "/predict/numbers"
    cases: list[tuple[str, dict[str, Any], int]] = [
        (infer, _ask({"inputs": [ROW]}), 200),
        ("/v2/models/numbrs/infer", _ask({"inputs": [ROW]}), 404),
        ("/v2/models/numbers/versions/9/infer", _ask({"inputs": [ROW]}), 404),
        ("/nowhere", _ask({}), 404),
        (infer, _ask(content=b"{"), 400),
        (infer, _ask(content=b""), 400),
        (infer, _ask(content=b"\xff\xfe"), 400),
        (infer, _ask({"inputs": [{**ROW, "data": [float("nan")] * 4}]}), 400),
        (infer, _ask(content=b'{"inputs":[],"inputs":[]}'), 400),
        (infer, _ask(content=b"[" * 5_000), 400),
        (infer, _ask({"inputs": [{**ROW, "shape": [1, 5]}]}), 400),
        (infer, _ask({"inputs": [{**ROW, "shape": [-1, 4]}]}), 400),
        (infer, _ask({"inputs": [{**ROW, "shape": [0, 4], "data": []}]}), 400),
        (infer, _ask({"inputs": [{**ROW, "shape": [2**62, 2**62]}]}), 400),
        (infer, _ask({"inputs": [{**ROW, "shape": [65, 4], "data": [1] * 260}]}), 400),
        (infer, _ask({"inputs": [{**ROW, "datatype": "FP128"}]}), 400),
        (infer, _ask({"inputs": [{**ROW, "name": "z"}]}), 400),
        (infer, _ask({"inputs": [ROW], "surprise": 1}), 400),
        (infer, _ask({"inputs": [{**ROW, "data": [1e999] * 4}]}), 400),
        (infer, _ask({"inputs": [{**ROW, "data": ["/etc/passwd"] * 4}]}), 400),
        (infer, _ask(content=bytes(50_001)), 413),
        (infer, _ask(content=bytes(100_001)), 413),
        (infer, {**_ask({"inputs": [ROW]}), "headers": {"content-encoding": "br"}}, 501),
        (infer, {**_ask(content=b"x" * 32), "headers": {"content-encoding": "gzip"}}, 400),
        (infer, {**_ask(content=b"x" * 32), "headers": {"inference-header-content-length": "99"}}, 400),
        (infer, {**_ask(content=b"x" * 32), "headers": {"inference-header-content-length": "-1"}}, 400),
        (predict, _ask(content=b"x", kind="application/x-python-pickle"), 415),
        (predict, _ask(content=b"x", kind="nonsense"), 415),
        ("/v2/models/poison/infer", _ask({"inputs": [{**ROW, "data": [1_000] * 4}]}), 500),
        ("/v2/logging", _ask({"log_file": "/tmp/x"}), 403),
    ]
    for path, asked, status in cases:
        answer = client.post(path, **asked)
        assert (path, asked["content"][:60], answer.status_code) == (path, asked["content"][:60], status)
        assert answer.headers["x-request-id"]
        if status >= 400:
            assert "error" in answer.json()
            assert not INTERNAL.search(answer.text.replace("/etc/passwd", "")), answer.text
    assert "numbers" in client.post("/v2/models/numbrs/infer", json={"inputs": [ROW]}).text
    assert client.delete("/v2/models/numbers/infer").status_code == 405


@pytest.mark.promise("P-36b")
def test_slow_senders_are_closed_and_disturb_nobody(server: Any, client: httpx.Client) -> None:
    starts = (
        b"",
        b"G",
        b"POST /v2/models/numbers/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nA: ",
        b"POST /v2/models/numbers/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{",
        b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    )
    slow = []
    for number in range(300):
        connection = server.connect()
        connection.sendall(starts[number % len(starts)])
        slow.append(connection)
    for _ in range(20):
        assert client.post("/v2/models/numbers/infer", json={"inputs": [ROW]}).status_code == 200
    deadline = time.monotonic() + 30
    waiting = dict(enumerate(slow))
    told: dict[int, bytes] = dict.fromkeys(waiting, b"")
    while waiting and time.monotonic() < deadline:
        for number, connection in list(waiting.items()):
            connection.settimeout(0.001)
            try:
                part = connection.recv(4_096)
            except TimeoutError:
                continue
            except ConnectionResetError:
                part = b""
            told[number] += part
            if not part:
                waiting.pop(number).close()
    assert not waiting
    for number, answer in told.items():
        kind = number % len(starts)
        wanted = {0: b"", 1: b"HTTP/1.1 408", 2: b"HTTP/1.1 408", 3: b"HTTP/1.1 408", 4: b"HTTP/1.1 200"}[kind]
        assert answer.startswith(wanted)
        assert bool(answer) is bool(wanted)


@pytest.mark.promise("P-30")
def test_a_full_server_says_when_to_come_back(start_server: Callable[..., Any], packages: Any) -> None:
    endpoint = packages.echo("slow", run_ms=300)
    server = start_server(endpoint, limits=spec.ServerLimits(max_in_flight=4))
    body = json.dumps({"inputs": [ROW]}).encode()
    head = b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    connections = [server.connect() for _ in range(12)]
    for connection in connections:
        connection.sendall(head % len(body) + body)
    answers = [server.read(connection) for connection in connections]
    for connection in connections:
        connection.close()
    statuses = [answer.split(b" ")[1] for answer in answers]
    assert statuses.count(b"200") >= 4
    assert statuses.count(b"503") == 12 - statuses.count(b"200") > 0
    assert all(b"retry-after: " in a for a, status in zip(answers, statuses, strict=True) if status == b"503")


def test_the_exposition_is_what_prometheus_reads(server: Any, client: httpx.Client) -> None:
    for _ in range(3):
        assert (
            client.post(
                "/v2/models/numbers/infer",
                json={
                    "inputs": [
                        ROW,
                    ]
                },
            ).status_code
            == 200
        )
    text = httpx.get(f"{server.admin_url}/metrics").text
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    for name in ("windlass_requests", "windlass_request_seconds", "windlass_batch_rows", "nv_inference_count"):
        assert families[name].documentation
    for family in families.values():
        if family.type != "histogram":
            continue
        series: dict[tuple[str, ...], list[Any]] = {}
        for sample in family.samples:
            labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
            series.setdefault(labels, []).append(sample)  # type: ignore[arg-type]
        for samples in series.values():
            buckets = [s.value for s in samples if s.name.endswith("_bucket")]
            count = next(s.value for s in samples if s.name.endswith("_count"))
            assert buckets == sorted(buckets)
            assert buckets[-1] == count
    assert httpx.post(f"{server.admin_url}/metrics").status_code == 405
    assert httpx.get(f"{server.admin_url}/spec").status_code == 404
    assert httpx.get(f"{server.admin_url}/metrics", headers={"host": "evil.example"}).status_code == 421
    assert httpx.get(f"{server.admin_url}/metrics", headers={"origin": "http://evil.example"}).status_code == 403
