"""What the routes do: packages in and out, aliases, deployments, jobs, feedback, the audit and the stream of events."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from windlass.api import access, app, packages
from windlass.registry import registry
from windlass.storage import blobs

BYTES = {"content-type": "application/octet-stream"}


def hexadecimal(digest: str) -> str:
    return digest.removeprefix("sha256:")


def package(world: Any, content: str) -> Any:
    return sys.modules[type(world).__module__].make_package(content)


# Packages


def test_an_uploaded_package_is_new_until_its_job_has_passed(world: Any) -> None:
    key = world.key()
    answer = key.upload("weights", "digits")
    assert answer.status_code == 201
    said = answer.json()
    assert (said["name"], said["version"], said["status"], said["created"]) == ("digits", 1, "NEW", True)
    job = key.get(f"/jobs/{said['job']}")
    assert (job["kind"], job["arguments"], job["state"]) == ("verify", {"ref": "digits@1"}, "QUEUED")
    assert key("PUT", "/models/digits/aliases/production", {"version": 1}).status_code == 422
    again = key.upload("weights", "digits").json()
    assert again == said | {"created": False}
    assert len(key.get("/jobs")["items"]) == 1


def test_nobody_claims_a_check_from_far_away(world: Any) -> None:
    key = world.key()
    key.upload("weights", "digits")
    for kind in ("parity", "verify"):
        body = {"kind": kind, "verdict": "passed"}
        assert key("POST", "/models/digits/versions/1/evidence", body).status_code == 403
    bench = key("POST", "/models/digits/versions/1/evidence", {"kind": "bench", "verdict": "passed"})
    assert [found["evidence"]["kind"] for found in bench.json()["items"]] == ["bench"]
    assert key.get("/models/digits/versions/1")["version"]["status"] == "NEW"


def test_a_blob_comes_back_as_it_was_uploaded(world: Any) -> None:
    key = world.key()
    key.upload("weights", "digits")
    _, data = package(world, "weights")
    for digest, value in data.items():
        path = f"/blobs/sha256/{hexadecimal(digest)}"
        assert key("GET", path).content == value
        head = key("HEAD", path)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(value)), b"")


def test_other_bytes_than_the_digests_are_refused_and_nothing_stays(world: Any) -> None:
    key = world.key()
    answer = key("PUT", f"/blobs/sha256/{'0' * 64}", content=b"x" * 3_000_000, headers=BYTES)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_input")
    assert key("HEAD", f"/blobs/sha256/{'0' * 64}").status_code == 404
    assert list((world.plane.settings.home / packages.FOLDER).iterdir()) == []
    assert list(world.plane.registry.store.digests()) == []
    assert key("PUT", f"/blobs/sha256/{'0' * 64}", content=b"x").status_code == 415
    assert key("PUT", "/blobs/sha256/xyz", content=b"x", headers=BYTES).status_code == 400


def test_an_upload_that_is_never_registered_is_collected(world: Any) -> None:
    key = world.key()
    _, data = package(world, "weights")
    for digest, value in data.items():
        key("PUT", f"/blobs/sha256/{hexadecimal(digest)}", content=value, headers=BYTES)
    later = registry.Registry(world.plane.rows, world.plane.registry.store, None, lambda: 2e9)  # type: ignore[arg-type]
    assert later.gc(grace_s=1.0).trashed == len(data)
    assert key("POST", "/models/digits/versions", {"digest": next(iter(data))}).status_code == 404


@pytest.mark.promise("P-15")
def test_a_tenant_registers_only_bytes_that_it_has(world: Any) -> None:
    mine, other = (world.key(*access.PERMISSIONS[2:], models=(f"{who}-*",)) for who in "ab")
    assert other.upload("secret weights", "b-fraud").status_code == 201
    made, data = package(world, "secret weights")
    manifest_path = f"/blobs/sha256/{hexadecimal(made.digest)}"
    assert mine("POST", "/models/a-fraud/versions", {"digest": made.digest}).status_code == 404
    # Who has the manifest, and of the blobs only their digests, still has not the bytes.
    assert mine("PUT", manifest_path, content=data[made.digest], headers=BYTES).status_code == 201
    assert mine("POST", "/models/a-fraud/versions", {"digest": made.digest}).status_code == 404
    assert mine("GET", manifest_path).status_code == 404
    assert mine.upload("secret weights", "a-fraud").status_code == 201
    assert mine("GET", manifest_path).content == data[made.digest]


def test_a_package_whose_blobs_are_missing_is_not_registered(world: Any) -> None:
    key = world.key()
    made, data = package(world, "weights")
    key("PUT", f"/blobs/sha256/{hexadecimal(made.digest)}", content=data[made.digest], headers=BYTES)
    answer = key("POST", "/models/digits/versions", {"digest": made.digest})
    assert (answer.status_code, answer.json()["error"]["hint"]) == (404, "Upload it first: PUT /blobs/sha256/...")
    assert key.get("/models")["items"] == []


def test_bytes_that_are_no_manifest_are_refused(world: Any) -> None:
    key = world.key()
    stored = key("PUT", f"/blobs/sha256/{hexadecimal(blob_digest(b'{}'))}", content=b"{}", headers=BYTES).json()
    answer = key("POST", "/models/digits/versions", {"digest": stored["digest"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "corrupt_package")


def blob_digest(data: bytes) -> str:
    return blobs.digest_of(data)


class Cut:
    """A network that loses the reply to the first request after it was done."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.lost = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def swallow(message: Any) -> None:
            del message

        if scope["type"] == "http" and scope["method"] != "GET" and not self.lost:
            self.lost += 1
            await self.inner(scope, receive, swallow)
            raise ConnectionResetError
        await self.inner(scope, receive, send)


@pytest.mark.promise("P-56")
def test_a_retry_after_a_lost_reply_is_answered_as_the_first_try_was(world: Any) -> None:
    key = world.key()
    for content in ("one", "two", "three"):
        world.push("fraud", content)
    key.upload("four", "fraud")
    made, _ = package(world, "four")
    release = {"name": "fraud", "ref": "fraud@1", "alias": ""}
    changes: tuple[tuple[str, str, Any], ...] = (
        ("POST", "/models/fraud/versions", {"digest": made.digest, "description": "again"}),
        ("PUT", "/models/fraud/aliases/production", {"version": 1}),
        ("PUT", "/models/fraud/aliases/production", {"version": 2}),
        ("PUT", "/models/fraud/aliases/production", {"version": 3}),
        ("POST", "/models/fraud/aliases/production/rollback", {}),
        ("PUT", "/deployments/fraud", release),
    )
    for number, (method, path, body) in enumerate(changes):
        cut = key._replace(client=type(key.client)(Cut(world.client.app), base_url=str(key.client.base_url)))
        headers = {"idempotency-key": f"try-{number}"}
        with pytest.raises(ConnectionResetError):
            cut(method, path, body, headers=headers)
        first, second = (cut(method, path, body, headers=headers) for _ in range(2))
        assert first.status_code in (200, 201), first.text
        assert first.json() == second.json()
        other = cut(method, path, {**body, "reason": "x"} if "aliases" in path else body, headers=headers)
        assert other.status_code in (200, 201, 409)
    assert len(key.get("/models/fraud/versions")["items"]) == 4
    history = key.get("/models/fraud/history")["items"]
    assert [(event["kind"], event["to_version"]) for event in history] == [
        ("move", 1),
        ("move", 2),
        ("move", 3),
        ("rollback", 2),
    ]
    assert key.get("/deployments/fraud")["generation"] == 1


@pytest.mark.promise("P-56")
def test_another_callers_idempotency_key_is_another_key(world: Any) -> None:
    world.push("fraud")
    one, two = world.key(), world.key()
    headers = {"idempotency-key": "same"}
    first = one("PUT", "/models/fraud/aliases/blue", {"version": 1}, headers=headers).json()
    second = two("PUT", "/models/fraud/aliases/green", {"version": 1}, headers=headers).json()
    assert (first["alias"], second["alias"]) == ("blue", "green")
    reused = one("PUT", "/models/fraud/aliases/green", {"version": None}, headers=headers)
    assert (reused.status_code, reused.json()["error"]["code"]) == (409, "conflict")
    assert one("PUT", "/models/fraud/aliases/x", {"version": 1}, headers={"idempotency-key": "a b"}).status_code == 400


# Aliases and deployments


def test_an_alias_moves_only_from_the_generation_that_was_seen(world: Any) -> None:
    world.push("fraud", "one")
    world.push("fraud", "two")
    key = world.key()
    path = "/models/fraud/aliases/production"
    made = key("PUT", path, {"version": 1}, headers={"if-none-match": "*"})
    assert (made.status_code, made.headers["etag"]) == (200, '"1"')
    assert key("PUT", path, {"version": 2}, headers={"if-none-match": "*"}).status_code == 409
    assert key("PUT", path, {"version": 2}, headers={"if-match": '"1"'}).headers["etag"] == '"2"'
    late = key("PUT", path, {"version": 1}, headers={"if-match": '"1"'})
    assert (late.status_code, late.json()["error"]["code"]) == (409, "conflict")
    assert "generation 2" in late.text
    assert key("GET", path).headers["etag"] == '"2"'
    assert key("GET", "/models/fraud/aliases/blue").status_code == 404
    for tag in ('"x"', "*", '"1", "2"'):
        assert key("PUT", path, {"version": 1}, headers={"if-match": tag}).status_code == 400


def test_two_people_changing_one_deployment_are_both_named(world: Any) -> None:
    world.push("fraud", "one")
    world.push("fraud", "two")
    ann, ben = world.key(), world.key()
    wish = {"name": "fraud", "ref": "fraud@1"}
    made = ann("PUT", "/deployments/fraud?reason=first", wish, headers={"if-none-match": "*"})
    assert (made.status_code, made.headers["etag"]) == (200, '"1"')
    assert made.json()["reason"] == "first"
    seen = ben("GET", "/deployments/fraud").headers["etag"]
    assert ann("PUT", "/deployments/fraud?reason=mine", wish | {"ref": "fraud@2"}).headers["etag"] == '"2"'
    late = ben("PUT", "/deployments/fraud", wish | {"target": "local"}, headers={"if-match": seen})
    assert (late.status_code, late.json()["error"]["code"]) == (409, "conflict")
    for said in ("generation 2", "generation 1", ann.id, "mine"):
        assert said in late.json()["error"]["message"]
    assert ben("PUT", "/deployments/fraud", wish | {"ref": "fraud@2"}).json()["generation"] == 2


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"name": "other"}, 400, "the path's is 'fraud'"),
        ({"ref": "fraud@9"}, 404, "no version 9"),
        ({"ref": "nothing@1"}, 404, "no model 'nothing'"),
        ({"ref": "/etc/passwd"}, 400, "is a path"),
        ({"ref": "fraud@2"}, 422, "not READY"),
        ({"strategy": {"kind": "canry"}}, 404, "canary"),
        ({"strategi": {}}, 400, "Did you mean 'strategy'?"),
    ],
)
def test_a_wish_that_cannot_be_says_why(world: Any, change: dict[str, Any], status: int, said: str) -> None:
    world.push("fraud", "one")
    key = world.key()
    key.upload("two", "fraud")
    for path, method in (("/deployments/fraud", "PUT"), ("/deployments/fraud/preview", "POST")):
        answer = key(method, path, {"name": "fraud", "ref": "fraud@1"} | change)
        if method == "POST" and status == 422:
            assert said in answer.json()["refused"]
            continue
        if "strategy" in change:
            assert answer.status_code in (400, 404)
        else:
            assert answer.status_code == status, answer.text
        assert said in answer.text
    assert key.get("/deployments")["items"] == []


@pytest.mark.promise("P-15")
def test_a_deployment_of_a_hidden_model_is_hidden(world: Any) -> None:
    world.push("b-fraud")
    world.push("a-fraud")
    admin = world.key()
    assert admin("PUT", "/deployments/a-front", {"name": "a-front", "ref": "b-fraud@1"}).status_code == 200
    key = world.key(*access.PERMISSIONS[2:], models=("a-*",))
    wish = {"name": "a-front", "ref": "a-fraud@1"}
    absent = key("GET", "/deployments/a-nothing").json()["error"]["message"]
    asked: tuple[tuple[str, str, Any], ...] = (
        ("GET", "/deployments/a-front", None),
        ("PUT", "/deployments/a-front", wish),
        ("POST", "/deployments/a-front/preview", wish),
        ("DELETE", "/deployments/a-front", None),
        ("POST", "/deployments/a-front/orders", {"what": "abort"}),
        ("POST", "/deployments/a-front/rollback", {}),
        ("GET", "/deployments/a-front/live?at=1", None),
        ("GET", "/deployments/a-front/rollouts", None),
        ("PUT", "/deployments/a-new", {"name": "a-new", "ref": "b-fraud@1"}),
        ("PUT", "/deployments/a-new", {"name": "a-new", "ref": "a-fraud@1", "against": ["b-fraud@1"]}),
        ("POST", "/deployments/a-front/feedback", {"items": [{"score": 1.0, "request": "r1"}]}),
        ("GET", "/deployments/a-front/feedback", None),
    )
    of_one = {(r.method, r.path.replace("{name}", "a-front")) for r in app.ROUTES if "/deployments/{name}" in r.path}
    assert of_one == {(method, path.partition("?")[0]) for method, path, _ in asked if "a-front" in path}
    for method, path, body in asked:
        answer = key(method, path, body)
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, absent), path
    assert key.get("/deployments")["items"] == []
    assert "a-front" not in str(key.get("/audit?limit=1000"))
    assert "a-front" not in key("GET", "/events?follow=false", headers={"last-event-id": "0"}).text
    assert admin.get("/deployments/a-front")["generation"] == 1


def test_an_order_without_a_rollout_is_a_conflict_and_a_removal_ends_it(world: Any) -> None:
    world.push("fraud")
    key = world.key()
    key("PUT", "/deployments/fraud", {"name": "fraud", "ref": "fraud@1"})
    assert key("POST", "/deployments/fraud/orders", {"what": "stop"}).status_code == 400
    assert key.get("/deployments/fraud/rollouts") == {"items": [], "next": ""}
    assert key("GET", "/rollouts/1").status_code == 404
    assert key("GET", "/rollouts/1/steps").status_code == 404
    gone = key("DELETE", "/deployments/fraud?reason=retired", headers={"if-match": '"1"'})
    assert gone.status_code == 200
    assert key("GET", "/deployments/fraud").status_code == 404


# Lists, the audit, events


def test_lists_come_in_pages_that_together_are_all(world: Any) -> None:
    for number in range(7):
        world.push(f"model-{number}", "same")
        world.push("many", str(number))
    key = world.key(*access.PERMISSIONS[2:], models=("model-[0-5]", "many"))
    for path, size in (("/models", 7), ("/models/many/versions", 7), ("/audit", 26)):
        found: list[Any] = []
        after = ""
        while True:
            page = key.get(f"{path}?limit=3" + (f"&after={after}" if after else ""))
            found += page["items"]
            after = page["next"]
            if not after:
                break
        assert len(page["items"]) <= 3
        assert found == key.get(f"{path}?limit=1000")["items"]
        assert len(found) >= size - 7
    assert len(key.get("/models?search=ODEL-3")["items"]) == 1


def test_the_audit_tells_who_and_why_and_is_whole(world: Any) -> None:
    world.push("fraud")
    key = world.key()
    key("PUT", "/models/fraud/aliases/production", {"version": 1, "reason": "because"})
    moved = key.get("/audit?action=alias.*")["items"]
    assert [(entry["subject"], entry["reason"]) for entry in moved] == [("model/fraud:production", "because")]
    assert key.id in moved[0]["actor"]
    head = key.get("/audit/head")
    assert key("POST", "/audit/verify", {"heads": [head]}).json()["bad"] == 0
    forged = key("POST", "/audit/verify", {"heads": [head | {"hash": "f" * 64}]}).json()
    assert forged["bad"] == head["number"]


def test_events_go_on_where_a_reader_stopped(world: Any) -> None:
    world.push("fraud", "one")
    key = world.key()
    first = key("GET", "/events?follow=false", headers={"last-event-id": "0"})
    assert first.headers["content-type"].startswith("text/event-stream")
    lines = first.text.split("\n")
    assert lines[0] == "retry: 2000"
    last = [line for line in lines if line.startswith("id: ")][-1].removeprefix("id: ")
    assert "event: version.created" in lines
    assert key("GET", "/events?follow=false").text == "retry: 2000\n\n"
    key("PUT", "/models/fraud/aliases/production", {"version": 1})
    again = key("GET", "/events?follow=false", headers={"last-event-id": last}).text
    assert [line for line in again.split("\n") if line.startswith("event: ")] == ["event: alias.moved"]
    other = key("GET", "/events?follow=false&events=version.*", headers={"last-event-id": last}).text
    assert "event:" not in other
    for text in ("x", "-1", "9" * 30):
        assert key("GET", "/events?follow=false", headers={"last-event-id": text}).status_code == 400


def test_feedback_is_taken_once(world: Any) -> None:
    world.push("fraud")
    key = world.key()
    key("PUT", "/deployments/fraud", {"name": "fraud", "ref": "fraud@1"})
    batch = {"items": [{"score": 1.0, "request": "r1"}, {"score": 0.0, "key": "k1"}]}
    assert key("POST", "/deployments/fraud/feedback", batch).json()["new"] == 2
    assert key("POST", "/deployments/fraud/feedback", batch).json()["duplicate"] == 2
    for wrong in ([], [{"score": 2.0, "request": "r"}], [{"score": 1.0}], [{"score": 1.0, "request": "r", "x": 1}]):
        assert key("POST", "/deployments/fraud/feedback", {"items": wrong}).status_code == 400


def test_a_revoked_digest_names_who_ran_it(world: Any) -> None:
    found = world.push("fraud")
    key = world.key()
    key("PUT", "/models/fraud/aliases/production", {"version": 1})
    key("PUT", "/deployments/fraud", {"name": "fraud", "ref": "fraud@1"})
    users = key.get(f"/digests/{found.digest}/users")
    assert (users["aliases"], users["deployments"]) == (["fraud:production"], ["fraud"])
    assert key("POST", f"/digests/{found.digest}/revoke", {"reason": ""}).status_code == 400
    done = key("POST", f"/digests/{found.digest}/revoke", {"reason": "poisoned"}).json()
    assert (done["versions"][0]["status"], done["deployments"]) == ("QUARANTINED", ["fraud"])
    assert key("GET", "/models/fraud/resolve?ref=fraud@1").status_code == 403
    back = key("POST", f"/digests/{found.digest}/reinstate", {"reason": "it was not"})
    assert (back.status_code, back.json()["versions"][0]["status"]) == (200, "QUARANTINED")
    assert key("POST", f"/digests/{found.digest}/reinstate", {"reason": "again"}).status_code == 404
