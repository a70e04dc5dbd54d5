"""Who may do what with which model: each permission against each route, tenants against each other, keys and gifts."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.api import access, app, examples, routes

GUARDED = [route for route in app.ROUTES if route.permission not in (access.OPEN, access.ANY_KEY)]
SCOPES = tuple(p for p in access.PERMISSIONS if p not in (access.OPEN, access.ANY_KEY))
NAME = re.compile(r"[a-z0-9-]{1,12}")


def ask(key: Any, route: routes.Route, **parts: str) -> Any:
    path = route.path
    for part, text in {**examples.PARTS, **parts}.items():
        path = path.replace(f"{{{part}}}", text)
    more: dict[str, Any] = {}
    if route.body is bytes:
        more = {"content": b"x", "headers": {"content-type": "application/octet-stream"}}
    elif route.body is not None:
        body = examples.of(route.body)
        if isinstance(body, dict) and body.get("name") == "fraud":
            body["name"] = parts.get("name", "fraud")
        more = {"body": body}
    query = {"ref": f"{parts.get('name', 'fraud')}@1", "at": "1"}
    known = route.query.__struct_fields__ if route.query else ()
    asked = "&".join(f"{name}={text}" for name, text in query.items() if name in known)
    if route.name == "events_stream":
        asked = "follow=false"
    return key(route.method, f"{path}?{asked}" if asked else path, **more)


@pytest.mark.promise("P-14")
@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_with_one_scope_gets_in_where_that_is_asked_and_nowhere_else(world: Any, scope: str) -> None:
    world.push("fraud")
    key = world.key(scope)
    before = len(world.key("audit:read").get("/audit?action=access.refused")["items"])
    refused = 0
    for route in GUARDED:
        answer = ask(key, route, version="1")
        if route.permission == scope:
            assert answer.status_code not in (401, 500), (route.name, answer.text)
            if answer.status_code == 403:
                assert "lacks the permission" not in answer.text
        else:
            refused += 1
            assert answer.status_code == 403, (route.name, answer.text)
            if route.method != "HEAD":
                assert route.permission in answer.json()["error"]["message"]
    entries = world.key("audit:read").get("/audit?action=access.refused&limit=1000")["items"]
    assert len(entries) - before == refused
    assert {entry["subject"] for entry in entries} == {f"key/{key.id}"}


@pytest.mark.promise("P-14")
def test_a_refusal_changes_nothing(world: Any) -> None:
    world.push("fraud")
    reader = world.key("audit:read", "model:read", "key:read", "deploy:read", "job:read")
    watched = ("/models", "/models/fraud/show?ref=fraud@1", "/deployments", "/jobs")
    before = [reader.get(path) for path in watched]
    for route in GUARDED:
        if route.permission not in ("audit:read", "model:read", "key:read", "deploy:read", "job:read"):
            assert ask(reader, route, version="1").status_code == 403
    assert [reader.get(path) for path in watched] == before


def told(answer: Any) -> Any:
    if not answer.content:
        return answer.status_code
    return answer.status_code, answer.json() | {"error": answer.json()["error"] | {"request_id": ""}}


@pytest.mark.promise("P-15")
@pytest.mark.parametrize("route", [pytest.param(r, id=r.name) for r in GUARDED if "{name}" in r.path])
def test_what_is_another_tenants_is_answered_as_what_is_not_there(shared_world: Any, route: routes.Route) -> None:
    if not shared_world.plane.registry.models(search="b-fraud"):
        shared_world.push("b-fraud")
        shared_world.push("a-fraud", "other")
        shared_world.key()("PUT", "/models/b-fraud/aliases/production", {"version": 1})
    key = shared_world.key(*SCOPES, models=("a-*",))
    theirs = ask(key, route, name="b-fraud", version="1")
    absent = ask(key, route, name="b-nothing", version="1")
    own_absent = ask(key, route, name="a-nothing", version="1")
    assert told(theirs) == told(absent)
    assert theirs.status_code == 404
    if own_absent.status_code == 404:
        assert told(own_absent) == told(theirs)


@pytest.mark.promise("P-15")
def test_lists_searches_digests_audit_events_and_keys_hold_what_the_caller_may_see(world: Any) -> None:
    both = world.push("a-fraud", "same")
    world.push("b-fraud", "same")
    child = world.push("b-fraud", "b's own", parent=both.digest)
    world.push("a-child", "a's own", parent=child.digest)
    admin = world.key()
    for name in ("a-fraud", "b-fraud"):
        admin("PUT", f"/models/{name}/aliases/production", {"version": 1})
    admin("POST", "/models/b-fraud/versions/2/verify")
    key = world.key(*SCOPES, models=("a-*",))
    for path in (
        "/models",
        "/models?search=fraud",
        f"/digests/{both.digest}/users",
        "/audit?limit=1000",
        "/deployments",
        "/jobs",
        "/keys",
        "/models/a-fraud/show?ref=a-fraud@1",
        "/models/a-child/show?ref=a-child@1",
    ):
        assert "b-fraud" not in str(key.get(path)), path
    events = key("GET", "/events?follow=false", headers={"last-event-id": "0"}).text
    assert "a-fraud" in events
    assert "b-fraud" not in events
    assert [model["name"] for model in key.get("/models")["items"]] == ["a-child", "a-fraud"]
    assert {one["name"] for one in key.get(f"/digests/{both.digest}/users")["versions"]} == {"a-fraud"}
    assert [k["id"] for k in key.get("/keys")["items"]] == [key.id]
    family = key.get("/models/a-child/show?ref=a-child@1")["family"]
    assert family["ancestors"] == [{"digest": child.digest, "name": "", "version": 0}]
    own = child.digest.removeprefix("sha256:")
    other = "0" * 64
    for method in ("GET", "HEAD"):
        assert told(key(method, f"/blobs/sha256/{own}")) == told(key(method, f"/blobs/sha256/{other}"))
    assert told(key("POST", "/models/a-fraud/versions", {"digest": child.digest})) == told(
        key("POST", "/models/a-fraud/versions", {"digest": f"sha256:{other}"})
    )
    assert key("POST", f"/digests/{both.digest}/revoke", {"reason": "x"}).status_code == 403


@pytest.mark.promise("P-15")
def test_the_nearest_name_is_told_only_to_who_sees_all(world: Any) -> None:
    world.push("b-fraud")
    assert "b-fraud" in world.key()("GET", "/models/b-frau/versions").text
    key = world.key(*SCOPES, models=("a-*", "b-frau"))
    assert "b-fraud" not in key("GET", "/models/b-frau/versions").text


def test_no_key_gives_what_it_does_not_have(world: Any) -> None:
    key = world.key("key:write", "key:read", "model:read", models=("a-*",), expires_at=2e9)
    wish = {"name": "child", "scopes": ["model:read"], "models": ["a-x*"], "expires_at": 1.9e9}
    for change, said in (
        ({"scopes": ["model:delete"]}, "lacks model:delete"),
        ({"models": ["*"]}, "may not see all of *"),
        ({"models": ["a-*", "b-x"]}, "may not see all of b-x"),
        ({"expires_at": None}, "does not outlive"),
        ({"expires_at": 2.1e9}, "does not outlive"),
    ):
        answer = key("POST", "/keys", wish | change)
        assert answer.status_code == 403
        assert said in answer.text
    assert key("POST", "/keys", wish).status_code == 201


def test_no_key_takes_over_or_ends_a_greater_one(world: Any) -> None:
    key = world.key("key:write", "key:read", models=("*",))
    admin = world.key()
    for what in ("rotate", "end-old", "revoke"):
        assert key("POST", f"/keys/{admin.id}/{what}", {} if what == "revoke" else None).status_code == 403
    assert admin.get("/models") == {"items": [], "next": ""}
    tenant = world.key("key:write", "key:read", models=("a-*",))
    assert tenant("POST", f"/keys/{key.id}/revoke", {}).status_code == 404
    assert key("POST", f"/keys/{key.id}/revoke", {"reason": "done"}).json()["revoked_at"] is not None
    assert key("GET", "/keys").status_code == 401


GLOB = st.text("ab-*?[]", min_size=1, max_size=5)


@given(own=st.tuples(GLOB), asked=GLOB, name=st.text("ab-", min_size=1, max_size=6))
def test_a_covered_glob_stands_for_no_name_beyond(own: tuple[str], asked: str, name: str) -> None:
    if access.covers(own, asked) and fnmatch.fnmatchcase(name, asked):
        assert fnmatch.fnmatchcase(name, own[0])


@given(asked=GLOB)
def test_everything_covers_everything(asked: str) -> None:
    assert access.covers(("*",), asked)
    assert access.covers((asked,), asked) or "[" in asked


def test_names_are_found_however_deep() -> None:
    payload = {"name": "a", "desired": {"release": {"name": "b"}, "against": [{"name": "c"}]}, "id": 3}
    assert access.names_in(payload) == {"a", "b", "c"}


def test_a_caller_checks_what_it_sees() -> None:
    caller = access.Caller("id", "ci", (), ("a-*",))
    caller.check("a-x", "a-y")
    with pytest.raises(errors.NotFound):
        caller.check("a-x", "b-y")
