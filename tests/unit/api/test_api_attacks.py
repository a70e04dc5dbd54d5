"""What was tried against the API and must not work again: each test is a way in, round, or out that was open once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from windlass import errors, settings
from windlass.api import access, door, routes
from windlass.records import rollouts
from windlass.security import signing
from windlass.types import deployment

FAR = "9" * 25
TENANT = ("a-*",)


def release(found: Any, ref: str = "") -> deployment.Release:
    return deployment.Release(found.name, found.version, found.digest, ref)


def went_live(world: Any, name: str, new: deployment.Release, old: deployment.Release | None, words: str) -> None:
    """A rollout of a deployment that ended at its new release, as the controller writes it."""
    wish = deployment.Desired(name=name, release=new)
    turn = rollouts.Turn({}, "RUNNING", "", words, None, {}, {})
    with world.plane.rows.write() as connection:
        row = rollouts.start(
            connection, wish=wish, generation=1, old=old, turn=turn, actor="ctl", reason="because", now=1.0
        )
    with world.plane.rows.write() as connection:
        assert rollouts.end(connection, row.id, turn, expected_step=0, outcome="new", now=2.0)


@pytest.mark.threat("V8")
@pytest.mark.parametrize(
    "path",
    [
        f"/audit?after={FAR}",
        f"/jobs?after={FAR}",
        f"/models/a-x/versions?after={FAR}",
        f"/models/a-x/show?ref=a-x@{FAR}",
        f"/jobs/{FAR}",
        "/audit?since=1e400",
    ],
)
def test_a_number_that_no_database_holds_is_the_callers_fault(shared_world: Any, path: str) -> None:
    assert shared_world.key()("GET", path).status_code == 400


@pytest.mark.threat("V8")
@pytest.mark.parametrize(
    "value", [{"version": 10**25}, {"version": 1, "reason": "a\0b"}, {"version": None, "reason": "\0"}]
)
def test_what_not_every_database_holds_is_refused(shared_world: Any, value: dict[str, Any]) -> None:
    answer = shared_world.key()("PUT", "/models/a-x/aliases/production", value)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_input")


@pytest.mark.promise("P-19")
@pytest.mark.parametrize(
    "origin",
    ["http://[", "http://[::1", "", "//127.0.0.1:8080", "http://127.0.0.1:8080@evil", "http://127.0.0.1:8080/"],
)
def test_an_origin_that_is_none_is_another_site(shared_world: Any, origin: str) -> None:
    assert shared_world.key()("GET", "/models", headers={"origin": origin}).status_code == 403


@pytest.mark.promise("P-19")
def test_an_ipv6_address_is_known_by_its_brackets() -> None:
    made = door.Door(None, table=(), known=None, rows=None, hosts=("2001:DB8::1",), clock=float)  # type: ignore[arg-type]
    made._check_host("[2001:db8::1]:8080")
    with pytest.raises(errors.Misdirected):
        made._check_host("[2001:db8::2]:8080")


@pytest.mark.parametrize("header", ["content-length", "last-event-id"])
def test_a_header_with_five_thousand_digits_is_refused(shared_world: Any, header: str) -> None:
    assert shared_world.key()("GET", "/events?follow=false", headers={header: "9" * 5000}).status_code == 400


@pytest.mark.promise("P-13")
def test_a_key_is_taken_from_one_header_alone(shared_world: Any) -> None:
    key, own = shared_world.key(), shared_world.client
    two = [("authorization", f"Bearer {key.text}"), ("authorization", f"Bearer {key.text}")]
    assert own.get("/api/v1/models", headers=two).status_code == 401
    for query in (f"key={key.text}", f"access_token={key.text}", f"authorization=Bearer {key.text}"):
        assert own.get(f"/api/v1/models?{query}").status_code == 401
    assert own.get("/api/v1/models", headers={"cookie": f"authorization=Bearer {key.text}"}).status_code == 401


@pytest.mark.threat("V2")
@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/models/%2e%2e/keys",
        "/api/v1/models/a-x/%2e%2e/b-x/versions",
        "//api/v1/models",
        "/api/v1/models/",
        "/API/V1/models",
        "/api/v1/models/A-X/versions",
        "/api/v1/models/b-x%00a-x/versions",
        "/api/v1/models/b-x%2f..%2fa-x/versions",
        "/healthz%2f",
    ],
)
def test_another_spelling_of_a_path_is_no_way_round(shared_world: Any, path: str) -> None:
    """One spelling is decoded once: what the door looked at is what the application runs."""
    assert shared_world.client.get(path).status_code in (401, 404)
    key = shared_world.key(models=TENANT)
    answer = shared_world.client.get(path, headers={"authorization": f"Bearer {key.text}"})
    assert answer.status_code in (400, 404)


# Tenants


@pytest.mark.promise("P-15")
def test_a_list_does_not_go_on_at_a_hidden_name(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_READS", 2)
    world.push("b-secret")
    admin = world.key()
    for number in range(4):
        wish = {"name": f"a-d{number:02}", "ref": "b-secret@1"}
        assert admin("PUT", f"/deployments/a-d{number:02}", wish).status_code == 200
    assert world.key(models=TENANT).get("/deployments?limit=1") == {"items": [], "next": ""}
    assert len(admin.get("/deployments?limit=3")["items"]) == 3


@pytest.mark.promise("P-15")
def test_what_a_deployment_ran_before_is_hidden_with_its_model(world: Any) -> None:
    theirs, own = world.push("b-secret", "theirs"), world.push("a-x", "own")
    admin, key = world.key(), world.key(models=TENANT)
    assert admin("PUT", "/deployments/a-d", {"name": "a-d", "ref": "a-x@1"}).status_code == 200
    went_live(world, "a-d", release(theirs), None, "b-secret@1 is fine")
    went_live(world, "a-d", release(own), release(theirs), "better than b-secret@1")
    assert key.get("/deployments/a-d")["desired"]["release"]["name"] == "a-x"
    assert admin.get("/deployments/a-d/live?at=2")["release"]["name"] == "a-x"
    for method, path, body in (
        ("POST", "/deployments/a-d/rollback", {"reason": "x"}),
        ("POST", "/deployments/a-d/rollback", {"reason": "x", "ref": "b-secret@1"}),
        ("GET", "/deployments/a-d/rollouts", None),
        ("GET", "/rollouts/1", None),
        ("GET", "/rollouts/2/steps", None),
        ("GET", "/audit?limit=1000", None),
    ):
        assert "b-secret" not in key(method, path, body).text, path
    assert "b-secret" not in key("GET", "/events?follow=false", headers={"last-event-id": "0"}).text
    assert "b-secret" in admin("GET", "/events?follow=false", headers={"last-event-id": "0"}).text
    assert key.get("/deployments/a-d")["generation"] == 1


@pytest.mark.promise("P-15")
def test_what_was_live_is_hidden_with_its_model(world: Any) -> None:
    theirs, own = world.push("b-secret", "theirs"), world.push("a-x", "own")
    world.key()("PUT", "/deployments/a-d", {"name": "a-d", "ref": "a-x@1"})
    went_live(world, "a-d", release(theirs), None, "")
    key = world.key(models=TENANT)
    assert key("GET", "/deployments/a-d/live?at=5").status_code == 404
    assert key("GET", "/deployments/a-d/live?at=0").status_code == 200
    assert own.name == "a-x"


# More than a key has


@pytest.mark.promise("P-14")
@pytest.mark.parametrize("limit", ["rate", "concurrency", "quota"])
def test_a_key_with_a_limit_gives_no_wider_one(world: Any, limit: str) -> None:
    caller = access.Caller("id", "ci", ("model:read",), ("*",), **{limit: 5})
    with pytest.raises(errors.NotAllowed, match=f"this key's {limit} is 5"):
        access.check_gift(caller, world.plane.keys.get(world.key("model:read").id))
    access.check_gift(caller, msgspec.structs.replace(world.plane.keys.get(world.key("model:read").id), **{limit: 4}))


@pytest.mark.parametrize(
    "change", [{"expires_at": 1e308}, {"expires_at": -1.0}, {"models": ["\x1b[2J"]}, {"models": ["a" * 200]}]
)
def test_a_key_holds_nothing_that_cannot_be_shown(world: Any, change: dict[str, Any]) -> None:
    answer = world.key()("POST", "/keys", {"name": "x", "scopes": ["model:read"], **change})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "usage")


@pytest.mark.promise("P-14")
@pytest.mark.promise("P-66")
def test_nobody_passes_for_a_signer(world: Any) -> None:
    found = world.push("fraud", "x")
    key = world.key("model:push", "model:read")
    body = {"kind": "signature", "verdict": "passed", "statistics": {"envelope": "{}"}}
    assert key("POST", "/models/fraud/versions/1/evidence", body).status_code == 403
    assert "signature" not in str(key.get("/models/fraud/versions/1/evidence"))
    assert found.name == "fraud"


@pytest.mark.promise("P-66")
def test_where_signatures_are_asked_for_a_package_has_one_that_is_good(world: Any, tmp_path: Path) -> None:
    policy = settings.Policy(require=("signature",))
    strict = msgspec.structs.replace(world.plane.settings, policy=policy)
    msgspec.structs.force_setattr(world.plane, "settings", strict)
    key, signer = world.key(), signing.own_key(tmp_path)
    answer = key.upload("w", "fraud")
    digest = answer.json()["digest"]
    good = signing.sign(signer, "digits", digest)
    assert key("POST", "/models/fraud/versions", {"digest": digest, "signature": "{}"}).status_code == 403
    assert key("POST", "/models/fraud/versions", {"digest": digest, "signature": good}).status_code == 403
    trusted = world.plane.settings.home / "trusted"
    trusted.mkdir(exist_ok=True)
    (trusted / "ann.pub").write_text(signing.public(signer))
    assert key("POST", "/models/fraud/versions", {"digest": digest, "signature": good}).status_code == 201


# Slow and long


@pytest.mark.promise("P-17")
def test_a_stream_ends_soon_after_its_key_whatever_the_interval(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = msgspec.structs.replace(world.plane.settings, up=settings.Up(interval_s=60.0))
    msgspec.structs.force_setattr(world.plane, "settings", lazy)
    key = world.key("event:read")
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        world.plane.keys.revoke(key.id, actor="test")

    monkeypatch.setattr("windlass.api.events.asyncio.sleep", sleep)
    assert key("GET", "/events").text == "retry: 2000\n\n"
    assert len(slept) == 1
    assert slept[0] <= 0.5


def test_a_body_that_stops_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_SILENCE_S", 0.0)

    async def take(receive: Any) -> Any:
        return await door._limited(receive, routes.MAX_BODY)()

    async def never() -> Any:
        await asyncio.Event().wait()

    async def whole() -> Any:
        return {"type": "http.request", "body": b"x", "more_body": False}

    with pytest.raises(errors.InvalidInput, match="did not go on"):
        asyncio.run(take(never))
    assert asyncio.run(take(whole))["body"] == b"x"


def test_two_lengths_of_one_body_are_refused(shared_world: Any) -> None:
    headers = {"content-type": "application/json", "content-length": "2", "transfer-encoding": "chunked"}
    answer = shared_world.key()("POST", "/keys", content=b"{}", headers=headers)
    assert (answer.status_code, "two ways" in answer.text) == (400, True)


def test_who_goes_away_in_the_middle_of_a_body_is_no_fault_of_ours(
    shared_world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    key = shared_world.key()
    sent: list[Any] = []

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = {"host": "127.0.0.1", "authorization": f"Bearer {key.text}", "content-type": "application/json"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/keys",
        "raw_path": b"/api/v1/keys",
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), text.encode()) for name, text in pairs.items()],
    }
    asyncio.run(shared_world.client.app(scope, gone, send))
    assert sent == []
    assert "failed" not in caplog.text
