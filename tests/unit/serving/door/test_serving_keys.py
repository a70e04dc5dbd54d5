"""Keys at the door: revoked, rotated, limited; on requests under way and on streams as on the next request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import orjson
import pytest

from windlass import errors
from windlass.security import keys
from windlass.serving.door import heads, leases
from windlass.serving.transport import rpc_messages
from windlass.types import spec

Make = Callable[..., Any]
Parse = Callable[..., Any]
PEPPER = "ab" * 32
ECHO = "POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: {}\r\nContent-Length: 1\r\n\r\na"
ASK = "POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: {}\r\nContent-Length: 0\r\n\r\n"


def _key(**options: Any) -> tuple[spec.Key, str]:
    name, text = keys.generate()
    return spec.Key(name, keys.hmac_of(text, bytes.fromhex(PEPPER)), **options), text


@pytest.mark.promise("P-17")
def test_a_key_revoked_while_its_model_runs_gets_no_answer(make_server: Make, parse_responses: Parse) -> None:
    server = make_server(trusted=None)
    (old, text), (new, _) = _key(), _key()
    server.door.use_keys((old, new), PEPPER)
    server.models.at_once = False
    connection, transport = server.connect()
    connection.data_received(ECHO.format(text).encode())
    server.door.use_keys((new,), PEPPER)
    server.models.answer(server.models.calls[0])
    (answer,) = parse_responses(transport.written)
    assert answer.status == 401
    server.check_settled()


@pytest.mark.promise("P-17")
def test_a_stream_ends_with_its_key(make_server: Make) -> None:
    """A gRPC stream is admitted once, and each of its messages names a model."""
    server = make_server("m", "n", trusted=None)
    key, text = _key(models=("m",))
    other, _ = _key()
    server.door.use_keys((key, other), PEPPER)
    credential = {b"host": b"127.0.0.1", b"authorization": b"Bearer " + text.encode()}
    permit = server.door.admit(heads.RequestHead(b"POST", b"/echo/m", credential, keep_alive=True))
    permit = msgspec.structs.replace(permit, view=None, match=msgspec.structs.replace(permit.match, model=""))
    assert server.door.enter(permit, "m", "").view.name == "m"
    with pytest.raises(errors.NotFound):
        server.door.enter(permit, "n", "")
    server.door.use_keys((msgspec.structs.replace(key, models=("n",)), other), PEPPER)
    assert server.door.enter(permit, "n", "").view.name == "n"
    with pytest.raises(errors.NotFound):
        server.door.enter(permit, "m", "")
    server.door.use_keys((msgspec.structs.replace(key, scopes=("model:read",)), other), PEPPER)
    with pytest.raises(errors.NotAllowed, match="permission"):
        server.door.enter(permit, "m", "")
    server.door.use_keys((msgspec.structs.replace(key, expires_at=server.wall + 1), other), PEPPER)
    assert server.door.enter(permit, "m", "").view.name == "m"
    server.wall += 1
    with pytest.raises(errors.Unauthenticated):
        server.door.enter(permit, "m", "")
    server.door.use_keys((other,), PEPPER)
    with pytest.raises(errors.Unauthenticated):
        server.door.enter(permit, "m", "")


@pytest.mark.promise("P-17")
def test_a_key_has_two_live_secrets_while_it_is_rotated(make_server: Make, parse_responses: Parse) -> None:
    server = make_server(trusted=None)
    key, old = _key()
    new = keys.renew(key.id)
    pepper = bytes.fromhex(PEPPER)

    def statuses() -> list[int]:
        return [parse_responses(server.ask(ASK.format(text).encode()))[0].status for text in (old, new)]

    server.door.use_keys((key,), PEPPER)
    assert statuses() == [200, 401]
    server.door.use_keys((msgspec.structs.replace(key, second_hmac=keys.hmac_of(new, pepper)),), PEPPER)
    assert statuses() == [200, 200]
    server.door.use_keys((msgspec.structs.replace(key, hmac=keys.hmac_of(new, pepper)),), PEPPER)
    assert statuses() == [401, 200]


def _lend(server: Any, *known: spec.Key) -> None:
    """What the supervisor does for a server of one worker."""
    lessor = leases.Lessor(clock=server.loop.clock, wall=lambda: server.wall)
    lessor.use(known)
    lessor.join(0)
    server.allowances.grant(lessor.grants()[0])
    server.door.use_keys(known, PEPPER)


def test_a_key_asks_as_often_as_it_may(make_server: Make, parse_responses: Parse) -> None:
    server = make_server(trusted=None)
    (key, text), (free, other) = _key(rate=2.0, burst=3), _key()
    _lend(server, key, free)
    found = []
    for wait in (0.0, 0.0, 0.0, 0.0, 0.49, 0.02, 0.0):
        server.loop.now += wait
        found += parse_responses(server.ask(ECHO.format(text).encode()))
    assert [a.status for a in found] == [200, 200, 200, 429, 429, 200, 429]
    assert found[3].headers[b"retry-after"] == b"1"
    assert orjson.loads(found[3].body)["code"] == "rate_limited"
    # Neither what asks no model nor another key is touched by it.
    assert parse_responses(server.ask(ASK.format(text).encode()))[0].status == 200
    assert [a.status for a in parse_responses(server.ask(ECHO.format(other).encode() * 9))] == [200] * 9
    assert server.counters.rejected == {"rate_limited": 3}
    server.check_settled()


def test_a_refused_request_uses_nothing_up(make_server: Make, parse_responses: Parse) -> None:
    server = make_server(trusted=None)
    key, text = _key(rate=1.0, burst=2, concurrency=2, quota=2)
    _lend(server, key)
    absent = ECHO.replace("/echo/m", "/echo/absent").format(text).encode()
    assert [a.status for a in parse_responses(server.ask(absent * 5))] == [404] * 5
    assert [a.status for a in parse_responses(server.ask(ECHO.format(text).encode() * 3))] == [200, 200, 429]


def test_a_place_is_given_back_however_a_request_ends(make_server: Make, parse_responses: Parse) -> None:
    server = make_server(trusted=None, max_body=100)
    key, text = _key(concurrency=2)
    _lend(server, key)
    head = f"POST /echo/m HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: {text}\r\n"

    def ask(body: str = "a", length: int | None = None, *lines: str) -> tuple[Any, Any]:
        connection, transport = server.connect()
        more = "".join(f"{line}\r\n" for line in lines)
        connection.data_received(f"{head}{more}Content-Length: {length or len(body)}\r\n\r\n{body}".encode())
        return connection, transport

    server.models.at_once = False
    for _ in range(3):
        for odd in (("fault",), ("a", 200), ("a", None, "Expect: odd"), ("a", None, "Content-Encoding: odd")):
            assert parse_responses(ask(*odd)[1].written)[0].status not in (200, 429)
        trickling = [ask("a", 2) for _ in range(2)]
        assert parse_responses(ask()[1].written)[0].status == 429
        for connection, _ in trickling:
            connection.connection_lost(None)
        asked = [ask() for _ in range(2)]
        assert parse_responses(ask()[1].written)[0].status == 429
        server.models.answer(server.models.calls.pop())
        asked[0][0].connection_lost(None)
        server.models.calls.clear()
    server.models.at_once = True
    assert parse_responses(ask()[1].written)[0].status == 200
    server.check_settled()


def test_a_place_is_given_back_by_who_asks_a_route_as_a_grpc_method(make_server: Make) -> None:
    server = make_server(trusted=None)
    key, text = _key(concurrency=1)
    _lend(server, key)
    credential = {b"host": b"127.0.0.1", b"x-api-key": text.encode()}
    for _ in range(3):
        with pytest.raises(errors.Unsupported):
            rpc_messages.admit(server.listener, heads.RequestHead(b"POST", b"/echo/m", credential, keep_alive=True))


def test_what_is_under_way_gives_back_what_it_took(make_server: Make, parse_responses: Parse) -> None:
    server = make_server(trusted=None)
    key, text = _key(concurrency=1)
    _lend(server, key)
    server.models.at_once = False
    first, told = server.connect()
    first.data_received(ECHO.format(text).encode())
    # The key loses its limit while it asks, and gets another one.
    server.door.use_keys((msgspec.structs.replace(key, concurrency=0),), PEPPER)
    server.models.answer(server.models.calls.pop())
    assert [a.status for a in parse_responses(told.written)] == [200]
    server.door.use_keys((key,), PEPPER)
    server.connect()[0].data_received(ECHO.format(text).encode())
    assert len(server.models.calls) == 1


def test_a_key_whose_models_changed_is_not_told_of_what_it_asked(make_server: Make, parse_responses: Parse) -> None:
    server = make_server("m", "n", trusted=None)
    key, text = _key()
    server.door.use_keys((key,), PEPPER)
    server.models.at_once = False
    connection, transport = server.connect()
    connection.data_received(ECHO.format(text).encode())
    server.door.use_keys((msgspec.structs.replace(key, models=("n",)),), PEPPER)
    server.models.answer(server.models.calls.pop())
    assert [a.status for a in parse_responses(transport.written)] == [404]
    assert server.outcomes()["rejected"] == 1
    server.check_settled()


def test_limits_that_were_taken_away_first_refuse(make_server: Make, parse_responses: Parse) -> None:
    # The supervisor tells of limits and of keys in messages of their own.
    server = make_server(trusted=None)
    key, text = _key(rate=5.0, concurrency=1)
    _lend(server, key)
    forget = leases.Share(0, leases.FORGET)
    server.allowances.grant({leases.name_of(key.id, kind): forget for kind in leases.KINDS})
    assert [a.status for a in parse_responses(server.ask(ECHO.format(text).encode()))] == [429]
    server.check_settled()


@pytest.mark.promise("P-17")
def test_a_key_revoked_before_the_body_is_there_asks_nothing(make_server: Make, parse_responses: Parse) -> None:
    server = make_server(trusted=None)
    key, text = _key()
    server.door.use_keys((key,), PEPPER)
    server.models.at_once = False
    connection, transport = server.connect()
    whole = ECHO.format(text).encode()
    connection.data_received(whole[:-1])
    server.door.use_keys((), PEPPER)
    connection.data_received(whole[-1:])
    assert [a.status for a in parse_responses(transport.written)] == [401]
    assert not server.models.calls
    server.check_settled()


def test_a_shadow_that_fails_disturbs_nobody(make_server: Make, parse_responses: Parse) -> None:
    server = make_server()

    def fails(*_: Any) -> None:
        raise ValueError("inside /srv/secret.py")

    server.models.views["m"] = msgspec.structs.replace(server.models.views["m"], mirror=fails)
    (answer,) = parse_responses(server.ask(ECHO.format("x").encode()))
    assert answer.status == 200
    server.check_settled()
