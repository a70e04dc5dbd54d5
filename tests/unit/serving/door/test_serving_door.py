"""The door: who gets through, with what, to which model, and that a refusal says no more than it should."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.security import keys
from windlass.serving.door import identity
from windlass.types import spec

Make = Callable[..., Any]
PEPPER = "ab" * 32


def _key(**options: Any) -> tuple[spec.Key, str]:
    name, text = keys.generate()
    return spec.Key(name, keys.hmac_of(text, bytes.fromhex(PEPPER)), **options), text


def _ask(
    server: Any, parse: Callable[..., Any], method: str, path: str, *lines: str, host: str | None = "127.0.0.1:8000"
) -> Any:
    head = [f"{method} {path} HTTP/1.1", *([] if host is None else [f"Host: {host}"]), *lines, "Content-Length: 0"]
    answers = parse(server.ask("\r\n".join(head).encode("latin-1") + b"\r\n\r\n"))
    assert len(answers) == 1
    return answers[0]


@pytest.mark.promise("P-19")
@pytest.mark.threat("V13")
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9", 200),
        ("LocalHost:8000", 200),
        ("[::1]:8000", 200),
        ("models.example", 200),
        ("MODELS.example:443", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil.example:8000", 421),
        ("127.0.0.1:8000@evil.example", 421),
        ("127.0.0.1:80:80", 421),
        ("127.0.0.1, evil.example", 400),
        ("", 421),
        (None, 400),
    ],
)
def test_only_our_hosts_are_answered(
    make_server: Make, parse_responses: Callable[..., Any], host: str | None, status: int
) -> None:
    server = make_server()
    for method, path in (("GET", "/health"), ("POST", "/echo/m"), ("POST", "/ask"), ("DELETE", "/nowhere")):
        answer = _ask(server, parse_responses, method, path, host=host)
        assert (answer.status if answer.status in (400, 421) else 200) == status


@pytest.mark.promise("P-19")
@pytest.mark.threat("V13")
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "file://", "", "127.0.0.1:8000"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_no_page_of_another_site_is_answered(
    make_server: Make, parse_responses: Callable[..., Any], origin: str, method: str
) -> None:
    for path in ("/health", "/echo/m", "/ask", "/load/m"):
        data = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nOrigin: {origin}\r\n\r\n".encode()
        (answer,) = parse_responses(make_server().ask(data), head=method == "HEAD")
        assert answer.status == 403
    own = "Origin: http://127.0.0.1:8000"
    assert _ask(make_server(), parse_responses, "GET", "/health", own).status == 200


@pytest.mark.promise("P-13")
def test_without_keys_the_loopback_reads_and_predicts_only(
    make_server: Make, parse_responses: Callable[..., Any]
) -> None:
    server = make_server()
    assert _ask(server, parse_responses, "POST", "/ask").status == 200
    assert _ask(server, parse_responses, "POST", "/echo/m").status == 200
    refused = _ask(server, parse_responses, "POST", "/load/m")
    assert refused.status == 403
    assert b"model:load" in refused.body


@pytest.mark.promise("P-13")
@pytest.mark.threat("V10")
@pytest.mark.parametrize("trusted", [identity.LOCAL, None])
def test_with_keys_nothing_but_health_answers_without_one(
    make_server: Make, parse_responses: Callable[..., Any], trusted: Any
) -> None:
    server = make_server(trusted=trusted)
    server.door.use_keys((_key()[0],), PEPPER)
    for method in ("GET", "POST"):
        for path in ("/ask", "/echo/m", "/echo/none", "/load/m"):
            found = _ask(server, parse_responses, method, path)
            assert found.status in (401, 405)
            if found.status == 401:
                assert found.headers[b"www-authenticate"] == b"Bearer"
    assert _ask(server, parse_responses, "GET", "/health").status == 200


def test_no_keys_and_nobody_trusted_lets_nobody_in(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server(trusted=None)
    server.door.use_keys((), PEPPER)
    assert _ask(server, parse_responses, "POST", "/ask").status == 401
    assert _ask(server, parse_responses, "POST", "/ask", f"Authorization: Bearer {_key()[1]}").status == 401


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.text(alphabet=string.printable.strip() + " ", max_size=80),
        st.sampled_from(("Bearer ", "Bearer wl_", "Basic YTpi", "wl_" + "0" * 12 + "_" + "A" * 43, "Bearer null")),
    )
)
def test_no_other_text_is_a_key(make_server: Make, parse_responses: Callable[..., Any], text: str) -> None:
    server = make_server(trusted=None)
    key, _secret = _key()
    server.door.use_keys((key,), PEPPER)
    for header in ("Authorization", "X-Api-Key"):
        assert _ask(server, parse_responses, "POST", "/ask", f"{header}: {text}").status == 401


def test_a_key_whose_id_is_right_and_secret_is_not(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server(trusted=None)
    key, text = _key()
    server.door.use_keys((key,), PEPPER)
    for wrong in (text[:-1] + ("A" if text[-1] != "A" else "B"), text[:-1], text + "A", text.upper()):
        assert _ask(server, parse_responses, "POST", "/ask", f"Authorization: Bearer {wrong}").status == 401
    for way in (f"Authorization: Bearer {text}", f"X-Api-Key: {text}", f"Authorization: {text}"):
        assert _ask(server, parse_responses, "POST", "/ask", way).status == 200


@pytest.mark.promise("P-14")
@pytest.mark.parametrize(
    ("scopes", "statuses"),
    [
        ((), (403, 403, 403)),
        (("model:read",), (200, 403, 403)),
        (("model:predict",), (403, 200, 403)),
        (("model:load",), (403, 403, 200)),
        (("admin",), (403, 403, 403)),
        (("model:*",), (403, 403, 403)),
        (("model:read", "model:predict", "model:load"), (200, 200, 200)),
    ],
)
def test_a_scope_opens_its_routes_only(
    make_server: Make, parse_responses: Callable[..., Any], scopes: tuple[str, ...], statuses: tuple[int, ...]
) -> None:
    server = make_server(trusted=None)
    key, text = _key(scopes=scopes)
    server.door.use_keys((key,), PEPPER)
    found = [
        _ask(server, parse_responses, "POST", path, f"Authorization: Bearer {text}").status
        for path in ("/ask", "/echo/m", "/load/m")
    ]
    assert tuple(found) == statuses


@pytest.mark.promise("P-17")
def test_a_revoked_key_ends_at_once_also_on_an_open_connection(
    make_server: Make, parse_responses: Callable[..., Any]
) -> None:
    server = make_server(trusted=None)
    (old, text), (new, other) = _key(), _key()
    server.door.use_keys((old, new), PEPPER)
    connection, transport = server.connect()
    head = f"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {text}\r\n"
    data = f"{head}Content-Length: 1\r\n\r\na".encode()
    connection.data_received(data)
    connection.data_received(data)
    # Admitted before, its body after: that is no way to succeed with a revoked key.
    connection.data_received(data[:-1])
    server.door.use_keys((new,), PEPPER)
    connection.data_received(data[-1:])
    connection.data_received(data)
    connection.data_received(data.replace(text.encode(), other.encode()))
    assert [a.status for a in parse_responses(transport.written)] == [200, 200, 401, 401, 200]
    # The same key under another pepper is another key.
    server.door.use_keys((new,), "cd" * 32)
    assert _ask(server, parse_responses, "POST", "/ask", f"X-Api-Key: {other}").status == 401


def test_a_key_ends_when_its_time_is_up(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    server = make_server(trusted=None)
    key, text = _key(expires_at=server.wall + 60)
    server.door.use_keys((key,), PEPPER)
    connection, transport = server.connect()
    data = f"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: {text}\r\nContent-Length: 1\r\n\r\na".encode()
    connection.data_received(data)
    server.wall += 59.9
    connection.data_received(data)
    server.wall += 0.1
    connection.data_received(data)
    assert [a.status for a in parse_responses(transport.written)] == [200, 200, 401]


@pytest.mark.promise("P-15")
def test_a_hidden_model_is_told_as_an_absent_one(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    """Name for name, what is said of a model that one may not see is what is said where it does not exist."""
    key, text = _key(models=("team-a-*",), scopes=("model:read", "model:predict", "model:load"))
    names = ("team-b-secret", "team-a-2", "team-a-9", "team-b-secre", "x")
    told = []
    for served in (("team-a-1", "team-b-secret"), ("team-a-1",)):
        server = make_server(*served, trusted=None)
        server.door.use_keys((key,), PEPPER)
        seen = []
        for name in names:
            for path in (f"/echo/{name}", f"/load/{name}"):
                answer = _ask(server, parse_responses, "POST", path, f"X-Api-Key: {text}")
                seen.append((answer.status, answer.body))
        index = _ask(server, parse_responses, "POST", "/ask", f"X-Api-Key: {text}")
        assert orjson.loads(index.body)["models"] == ["team-a-1"]
        assert _ask(server, parse_responses, "POST", "/echo/team-a-1", f"X-Api-Key: {text}").status == 200
        told.append(seen)
    assert told[0] == told[1]
    assert all(b"secret'?" not in body for _, body in told[0])


def test_an_unknown_model_is_told_with_the_nearest(make_server: Make, parse_responses: Callable[..., Any]) -> None:
    answer = _ask(make_server("sentiment"), parse_responses, "POST", "/echo/sentimant")
    assert answer.status == 404
    assert b"Did you mean 'sentiment'?" in answer.body


@pytest.mark.promise("P-18")
def test_a_key_is_in_no_answer_and_no_log(
    make_server: Make, parse_responses: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    server = make_server(trusted=None)
    key, text = _key()
    server.door.use_keys((key,), PEPPER)
    told = b""
    for path in ("/ask", "/load/m", "/echo/m", "/echo/none", "/nowhere"):
        for line in (f"Authorization: Bearer {text}", f"X-Api-Key: {text}x", f"Authorization: Basic {text}"):
            answer = _ask(server, parse_responses, "POST", path, line)
            told += answer.body + b"".join(answer.headers.values())
    secret = text.split("_", 2)[2]
    assert secret.encode() not in told
    assert secret not in caplog.text


@pytest.mark.promise("P-17")
def test_a_server_that_had_keys_stays_closed_when_the_last_one_is_revoked(
    make_server: Make, parse_responses: Callable[..., Any]
) -> None:
    server = make_server()
    assert _ask(server, parse_responses, "POST", "/ask").status == 200
    key, _ = _key()
    server.door.use_keys((key,), PEPPER)
    server.door.use_keys((), PEPPER)
    assert _ask(server, parse_responses, "POST", "/ask").status == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_may_be_written_in_any_case(
    make_server: Make, parse_responses: Callable[..., Any], scheme: str
) -> None:
    server = make_server(trusted=None)
    key, text = _key()
    server.door.use_keys((key,), PEPPER)
    assert _ask(server, parse_responses, "POST", "/ask", f"Authorization: {scheme} {text}").status == 200
