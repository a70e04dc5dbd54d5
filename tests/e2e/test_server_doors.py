"""Every door of a server with keys: each route and verb, by HTTP/1.1, HTTP/2 and gRPC, from here and from elsewhere."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx
import pytest
from h2 import config, connection, events

from windlass import plugins
from windlass.protocols import base
from windlass.security import keys
from windlass.serving.door import routes
from windlass.types import spec

PEPPER = "5a" * 32
VERBS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "PROPFIND")
UNKNOWN = ("/metrics", "/spec", "/status", "/docs", "/v2/", "/nowhere", "/v2/../spec", "//v2", "/grpc.nobody/None")
Head = tuple[str, str, dict[str, str]]


@pytest.fixture(scope="module")
def guarded(start_server: Callable[..., Any], packages: Any) -> tuple[Any, str]:
    name, text = keys.generate()
    known = spec.Key(name, keys.hmac_of(text, bytes.fromhex(PEPPER)), models=("numbers",))
    return start_server(packages.echo("numbers"), packages.echo("hidden"), keys=(known,), key_pepper=PEPPER), text


def _inventory() -> Iterator[tuple[str, str, base.Route | None]]:
    """Every path of every protocol with every verb, and the route that is declared for it, if any."""
    table = routes.RouteTable(plugins.load("protocols", name)() for name in plugins.catalog()["protocols"])
    declared = {(route.method, route.path): route for route in table.routes}
    for template in sorted({route.path for route in table.routes} | set(UNKNOWN)):
        path = re.sub(r"\{\w+\}", "1", template.replace("{model}", "numbers"))
        for verb in VERBS:
            yield verb, path, declared.get(("GET" if verb == "HEAD" else verb, template))


def _http2(server: Any, asked: Iterable[Head]) -> list[dict[str, str]]:
    """The headers (and trailers) of each answer on one HTTP/2 connection, one request after the other."""
    found = []
    with server.connect() as wire:
        talk = connection.H2Connection(config.H2Configuration(header_encoding="utf-8"))
        talk.initiate_connection()
        for method, path, more in asked:
            headers = {":method": method, ":path": path, ":scheme": "http", ":authority": "127.0.0.1", **more}
            stream = talk.get_next_available_stream_id()
            talk.send_headers(stream, list(headers.items()), end_stream=True)
            wire.sendall(talk.data_to_send())
            answer: dict[str, str] = {}
            ended = False
            while not ended:
                for event in talk.receive_data(wire.recv(65_536)):
                    if isinstance(event, events.ResponseReceived | events.TrailersReceived):
                        answer |= {str(name): str(value) for name, value in event.headers}
                    elif isinstance(event, events.DataReceived):
                        talk.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    ended = ended or isinstance(event, events.StreamEnded | events.StreamReset)
                wire.sendall(talk.data_to_send())
            found.append(answer)
    return found


def _is_open(route: base.Route | None) -> bool:
    return route is not None and route.permission == "health"


@pytest.mark.promise("P-13")
@pytest.mark.threat("V10")
def test_nothing_but_health_is_answered_without_a_key_over_http1(guarded: tuple[Any, str]) -> None:
    server, text = guarded
    with httpx.Client(base_url=server.url, timeout=20) as client:
        for verb, path, route in _inventory():
            status = client.request(verb, httpx.URL(server.url).copy_with(raw_path=path.encode())).status_code
            rpc = route is not None and isinstance(route.action, base.RpcInfer | base.RpcQuery)
            if _is_open(route):
                assert status in ((415,) if rpc else (200, 503)), (verb, path)
            else:
                assert status == 401, (verb, path)
        for lines in ({"authorization": "Bearer x"}, {"authorization": f"Bearer {text[:-1]}"}, {"x-api-key": "x"}):
            assert client.get("/v2", headers=lines).status_code == 401
        assert client.get("/v2", headers={"authorization": f"Bearer {text}"}).status_code == 200


@pytest.mark.promise("P-13")
@pytest.mark.threat("V10")
def test_nothing_but_health_is_answered_without_a_key_over_http2(guarded: tuple[Any, str]) -> None:
    server, text = guarded
    inventory = list(_inventory())
    for (verb, path, route), answer in zip(
        inventory, _http2(server, [(v, p, {}) for v, p, _ in inventory]), strict=True
    ):
        rpc = route is not None and isinstance(route.action, base.RpcInfer | base.RpcQuery)
        if _is_open(route):
            assert answer[":status"] in (("415",) if rpc else ("200", "503")), (verb, path)
        else:
            assert answer[":status"] == "401", (verb, path)
    assert _http2(server, [("GET", "/v2", {"authorization": f"Bearer {text}"})])[0][":status"] == "200"


@pytest.mark.promise("P-13")
@pytest.mark.threat("V10")
def test_no_grpc_method_but_health_is_answered_without_a_key(guarded: tuple[Any, str]) -> None:
    server, text = guarded
    grpc = {"content-type": "application/grpc", "te": "trailers"}
    found = [(path, route) for verb, path, route in _inventory() if verb == "POST"]
    for (path, route), answer in zip(found, _http2(server, [("POST", p, grpc) for p, _ in found]), strict=True):
        if _is_open(route):
            assert answer.get("grpc-status") != "16", path
        else:
            assert answer[":status"] == "401" or answer["grpc-status"] == "16", (path, answer)
    known = {**grpc, "authorization": f"Bearer {text}"}
    metadata = "/inference.GRPCInferenceService/ServerMetadata"
    assert _http2(server, [("POST", metadata, known)])[0]["grpc-status"] != "16"


@pytest.mark.promise("P-15")
def test_a_hidden_model_is_an_absent_one_on_every_route(guarded: tuple[Any, str]) -> None:
    """Same status, same headers, same body, whatever the route and verb."""
    server, text = guarded
    seen: dict[str, list[Any]] = {"hidden": [], "absent": []}
    table = routes.RouteTable(plugins.load("protocols", name)() for name in plugins.catalog()["protocols"])
    with httpx.Client(base_url=server.url, timeout=20, headers={"x-api-key": text}) as client:
        for route in table.routes:
            if "{model}" not in route.path:
                continue
            for name, told in seen.items():
                path = re.sub(r"\{\w+\}", "1", route.path.replace("{model}", name))
                answer = client.request(route.method, path, headers={"x-request-id": "same"})
                headers = {k: v for k, v in answer.headers.items() if k != "date"}
                told.append((route.path, answer.status_code, headers, answer.text.replace(name, "NAME")))
        for path in ("/v2/repository/index", "/v2/models/stats"):
            answer = client.request("POST" if "index" in path else "GET", path)
            assert "hidden" not in answer.text
    assert seen["hidden"] == seen["absent"]
    assert {status for _, status, _, _ in seen["hidden"]} <= {400, 403, 404}


@pytest.mark.promise("P-19")
@pytest.mark.threat("V13")
def test_a_browser_cannot_drive_it_over_http2(guarded: tuple[Any, str]) -> None:
    server, text = guarded
    known = {"authorization": f"Bearer {text}"}
    own = {"origin": f"http://127.0.0.1:{server.port}", ":authority": f"127.0.0.1:{server.port}"}
    for verb in VERBS:
        foreign, rebound, other = _http2(
            server,
            [
                (verb, "/v2", {**known, "origin": "http://evil.example"}),
                (verb, "/v2", {**known, ":authority": "evil.example"}),
                (verb, "/v2", {**known, ":authority": f"127.0.0.1:{server.port}", "origin": "http://127.0.0.1:9"}),
            ],
        )
        assert (foreign[":status"], rebound[":status"], other[":status"]) == ("403", "421", "403"), verb
    assert _http2(server, [("GET", "/v2", {**known, **own})])[0][":status"] == "200"


@pytest.mark.promise("P-19b")
def test_what_a_header_claims_is_no_identity(guarded: tuple[Any, str]) -> None:
    server, _ = guarded
    claims = {
        "x-forwarded-client-cert": 'By=spiffe://a;Hash=00;Subject="CN=admin"',
        "x-forwarded-for": "127.0.0.1",
        "x-ssl-client-verify": "SUCCESS",
        "forwarded": "for=127.0.0.1",
        "x-real-ip": "127.0.0.1",
    }
    assert httpx.get(f"{server.url}/v2", headers=claims).status_code == 401
    assert _http2(server, [("GET", "/v2", claims)])[0][":status"] == "401"


@pytest.fixture(scope="module")
def walled(start_server: Callable[..., Any], packages: Any) -> Any:
    limits = spec.ServerLimits(max_connections_per_peer=3)
    return start_server(packages.echo("numbers"), allow=("127.0.0.2/31",), limits=limits, workers=1)


@pytest.mark.promise("P-19b")
def test_only_allowed_peers_are_answered(walled: Any) -> None:
    for source, answered in (("127.0.0.1", False), ("127.0.0.2", True), ("127.0.0.4", False)):
        with socket.create_connection(("127.0.0.1", walled.port), 20, source_address=(source, 0)) as wire:
            claim = b"X-Forwarded-For: 127.0.0.2\r\n"
            with contextlib.suppress(OSError):
                wire.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n%bConnection: close\r\n\r\n" % claim)
            told = walled.read(wire)
        assert told.startswith(b"HTTP/1.1 200") is answered, source
        assert bool(told) is answered
    assert walled.metrics()["windlass_rejected_total", "address_not_allowed"] == 2
    # The admin port is for this machine, whatever the list says.
    assert httpx.get(f"{walled.admin_url}/health").status_code == 200


def test_one_peer_does_not_take_all_connections(walled: Any) -> None:
    def ask(source: str) -> http.client.HTTPConnection:
        one = http.client.HTTPConnection("127.0.0.1", walled.port, timeout=20, source_address=(source, 0))
        one.request("GET", "/health")
        assert one.getresponse().read()
        return one

    held = [ask("127.0.0.2") for _ in range(3)]
    with pytest.raises((OSError, http.client.HTTPException)):
        ask("127.0.0.2")
    ask("127.0.0.3").close()
    for one in held:
        one.close()
    assert walled.metrics()["windlass_rejected_total", "too_many_connections_of_peer"] == 1
