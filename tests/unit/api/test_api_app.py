"""The API as a whole: who gets in, where, with what; and what each refusal says."""

from __future__ import annotations

from typing import Any

import fastapi
import msgspec
import pytest
from starlette import requests, responses

from windlass import errors
from windlass.api import access, app, document, examples, routes
from windlass.api import errors as statuses
from windlass.records import keys

EVERY = [pytest.param(route, id=route.name) for route in app.ROUTES]


def filled(route: routes.Route) -> str:
    path = route.full_path
    for part, text in examples.PARTS.items():
        path = path.replace(f"{{{part}}}", text)
    return path


def code(answer: Any) -> str:
    return str(answer.json()["error"]["code"])


@pytest.mark.promise("P-13")
@pytest.mark.threat("V10")
@pytest.mark.parametrize("route", EVERY)
def test_a_route_without_a_credential_is_401(shared_world: Any, route: routes.Route) -> None:
    answer = shared_world.client.request(route.method, filled(route))
    if route.permission == access.OPEN:
        assert (answer.status_code, answer.json()) == (200, {"live": True})
        return
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    if route.method != "HEAD":
        assert code(answer) == "unauthenticated"


@pytest.mark.promise("P-13")
def test_the_application_holds_these_routes_and_no_other(shared_world: Any) -> None:
    inner = shared_world.client.app
    found = {(route.path, method) for route in inner.routes for method in route.methods}
    assert found == {(route.full_path, route.method) for route in app.ROUTES}
    assert [route.full_path for route in app.ROUTES if route.permission == access.OPEN] == ["/healthz"]
    assert [route.full_path for route in app.ROUTES if route.permission == access.ANY_KEY] == ["/api/v1/openapi.json"]


@pytest.mark.promise("P-13")
@pytest.mark.parametrize(
    "path", ["/", "/docs", "/redoc", "/openapi.json", "/api/v1/nothing", "/metrics", "/api/v1//models"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_an_unknown_path_is_401_and_with_a_key_404(shared_world: Any, path: str, method: str) -> None:
    assert shared_world.client.request(method, path).status_code == 401
    key = shared_world.key("audit:read")
    answer = shared_world.client.request(method, path, headers={"authorization": f"Bearer {key.text}"})
    assert answer.status_code == 404


@pytest.mark.promise("P-13")
def test_a_route_that_declares_nothing_stops_the_start() -> None:
    inner = fastapi.FastAPI(openapi_url=None)

    def leak() -> dict[str, str]:
        return {}

    inner.add_api_route("/open", leak)
    with pytest.raises(ValueError, match="/open declares no permission"):
        app.declared(inner)


@pytest.mark.promise("P-13")
@pytest.mark.threat("V10")
def test_a_route_or_a_mount_added_later_is_not_reached(world: Any) -> None:
    def leak(request: requests.Request) -> responses.Response:
        return responses.PlainTextResponse("leak")

    inner = world.client.app
    inner.add_api_route("/late", leak)
    inner.mount("/gateway", leak)
    key = world.key()
    for path in ("/late", "/gateway", "/gateway/x"):
        assert world.client.get(path).status_code == 401
        assert world.client.get(path, headers={"authorization": f"Bearer {key.text}"}).status_code == 404


def test_another_method_is_405_and_names_those_there_are(shared_world: Any) -> None:
    answer = shared_world.key()("PATCH", "/models/fraud/aliases/production")
    assert (answer.status_code, code(answer)) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, PUT"


@pytest.mark.parametrize(
    "credential", ["", "Bearer", "Bearer ", "Bearer wl_x", "Basic d2w6eA==", "wl_000000000000_" + "x" * 43]
)
def test_no_key_is_no_key(shared_world: Any, credential: str) -> None:
    answer = shared_world.client.get("/api/v1/models", headers={"authorization": credential})
    assert answer.status_code == 401


def test_a_revoked_and_an_expired_key_end_at_once(world: Any) -> None:
    key, late = world.key("model:read"), world.key("model:read", expires_at=1.0)
    assert key("GET", "/models").status_code == 200
    assert late("GET", "/models").status_code == 401
    world.plane.keys.revoke(key.id, actor="test")
    assert key("GET", "/models").status_code == 401


def test_both_secrets_of_a_rotating_key_are_good_until_the_old_one_ends(world: Any) -> None:
    admin, key = world.key(), world.key("model:read")
    fresh = admin("POST", f"/keys/{key.id}/rotate").json()["key"]
    new = key._replace(text=fresh)
    assert (key("GET", "/models").status_code, new("GET", "/models").status_code) == (200, 200)
    assert admin("POST", f"/keys/{key.id}/end-old").json()["rotating"] is False
    assert (key("GET", "/models").status_code, new("GET", "/models").status_code) == (401, 200)


@pytest.mark.promise("P-19")
@pytest.mark.threat("V13")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_a_browser_on_another_page_is_refused_for_every_verb(shared_world: Any, method: str) -> None:
    key = shared_world.key()
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        assert key(method, "/models", headers=headers).status_code == 403
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8080", "", "127.0.0.1, evil.example"):
        assert key(method, "/models", headers={"host": host}).status_code == 421
    assert shared_world.client.request(method, "/healthz", headers={"host": "evil.example"}).status_code == 421


@pytest.mark.promise("P-19")
def test_the_own_page_and_the_names_of_this_machine_are_answered(shared_world: Any) -> None:
    key = shared_world.key()
    for host in ("127.0.0.1", "localhost:8080", "LOCALHOST", "[::1]:8080"):
        assert key("GET", "/models", headers={"host": host, "origin": f"http://{host}"}).status_code == 200


@pytest.mark.promise("P-19")
def test_a_simple_form_is_refused(shared_world: Any) -> None:
    key = shared_world.key()
    for media in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"):
        answer = key("POST", "/keys", content=b'{"name": "x"}', headers={"content-type": media})
        assert (answer.status_code, code(answer)) == (415, "unsupported_media_type")


def test_headers_and_bodies_have_limits_that_hold_before_they_are_parsed(shared_world: Any) -> None:
    key = shared_world.key()
    assert key("GET", "/models", headers={"x-long": "x" * 20_000}).status_code == 431
    assert key("GET", "/models", headers={f"x-{n}": "" for n in range(120)}).status_code == 431
    assert key("GET", "/models?search=" + "x" * 5_000).status_code == 431
    large = b'{"name": "' + b"x" * routes.MAX_BODY + b'"}'
    json = {"content-type": "application/json"}
    assert key("POST", "/keys", content=large, headers=json).status_code == 413

    def parts() -> Any:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    assert key("POST", "/keys", content=parts(), headers=json).status_code == 413
    assert key("GET", "/models", content=b"x").status_code == 413
    assert shared_world.client.request("GET", "/healthz", content=b"x").status_code == 413


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"name": "x", "scope": []}', "Did you mean 'scopes'?"),
        (b'{"name": "x", "name": "y"}', "twice"),
        (b'{"name": 3}', "Expected `str`, got `int`"),
        (b'{"name": "x", "rate": NaN}', "NaN"),
        (b"[1]", "Expected `object`"),
        (b"{", "not valid JSON"),
        (b'"\xff"', "UTF-8"),
        (b"[" * 40 + b"]" * 40, "nests deeper"),
        (b"", "missing required field `name`"),
        (b'{"name": "x", "scopes": ["model:reed"]}', "NotAllowed"),
    ],
)
def test_a_wrong_body_is_refused_and_says_why(shared_world: Any, body: bytes, said: str) -> None:
    answer = shared_world.key()("POST", "/keys", content=body, headers={"content-type": "application/json"})
    if said == "NotAllowed":
        assert (answer.status_code, code(answer)) == (403, "not_allowed")
        return
    assert (answer.status_code, code(answer)) == (400, "invalid_input")
    assert said in answer.text.replace('\\"', '"')


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("serach=x", "Did you mean 'search'?"),
        ("limit=0", ">= 1"),
        ("limit=1001", "<= 1000"),
        ("limit=ten", "Expected `int`"),
        ("limit=1&limit=2", "twice"),
        ("search=%00", "no text"),
    ],
)
def test_a_wrong_query_is_refused_and_says_why(shared_world: Any, query: str, said: str) -> None:
    answer = shared_world.key()("GET", f"/models?{query}")
    assert (answer.status_code, code(answer)) == (400, "invalid_input")
    assert said in answer.text


def test_a_moment_is_a_finite_number(shared_world: Any) -> None:
    for text in ("nan", "inf", "-1", "x"):
        assert shared_world.key()("GET", f"/deployments/fraud/live?at={text}").status_code == 400


def test_the_request_id_is_the_callers_own_or_a_new_one(shared_world: Any) -> None:
    own = shared_world.client.get("/api/v1/models", headers={"x-request-id": "mine-1"})
    assert own.headers["x-request-id"] == own.json()["error"]["request_id"] == "mine-1"
    other = shared_world.client.get("/api/v1/models", headers={"x-request-id": "not mine\t"})
    assert len(other.headers["x-request-id"]) == 16


def test_a_fault_of_ours_tells_nothing_of_itself(
    world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("/srv/secret/path")

    monkeypatch.setattr(world.plane.registry, "models", broken)
    answer = world.key()("GET", "/models", headers={"x-request-id": "fault-1"})
    assert (answer.status_code, code(answer)) == (500, "internal")
    assert "secret" not in answer.text
    assert "fault-1" in caplog.text
    assert "/srv/secret/path" in caplog.text


def test_a_database_that_does_not_answer_is_503(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = world.key()

    def away(*_: Any) -> None:
        raise errors.Unavailable("the registry's database does not answer.", hint="Check that it runs.")

    monkeypatch.setattr(world.plane.rows, "read", away)
    for path in ("/models", "/deployments", "/audit/head", "/keys", "/events", "/jobs/3"):
        answer = key("GET", path)
        assert (answer.status_code, code(answer)) == (503, "unavailable")
        assert answer.headers["retry-after"] == "1"
    assert world.client.get("/healthz").status_code == 200


@pytest.mark.promise("P-18")
def test_a_secret_is_told_once_and_never_kept_or_logged(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    admin = world.key()
    made = admin("POST", "/keys", {"name": "ci", "scopes": ["model:read"]}).json()
    secret = made["key"].rpartition("_")[2]
    key = admin._replace(text=made["key"])
    assert key("GET", "/models").status_code == 200
    assert key("GET", "/keys").status_code == 403
    assert key("GET", f"/models/{made['key']}/versions").status_code == 400
    for path in ("/keys", "/audit?limit=1000", "/openapi.json"):
        assert secret not in admin("GET", path).text
    rotated = admin("POST", f"/keys/{made['id']}/rotate").json()["key"].rpartition("_")[2]
    assert secret != rotated
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("windlass"))
    files = [file.read_bytes() for file in world.plane.settings.home.rglob("*") if file.is_file()]
    assert made["id"].encode() in b"".join(files)
    for hidden in (secret, rotated):
        assert hidden not in logged
        assert not any(hidden.encode() in data for data in files)


def test_every_error_has_a_status_and_is_in_the_document() -> None:
    def walk(kind: type[errors.WindlassError]) -> Any:
        yield kind
        for child in kind.__subclasses__():
            yield from walk(child)

    document_ = document.make(app.ROUTES)
    for kind in walk(errors.WindlassError):
        assert f"E{statuses.status(kind(''))}" in document_["components"]["responses"]


@pytest.mark.parametrize("route", EVERY)
def test_each_route_is_described_with_examples_that_are_what_they_claim(route: routes.Route) -> None:
    said = document.make(app.ROUTES)["paths"][route.full_path][route.method.lower()]
    assert said["summary"].endswith((".", "database.", "all."))
    assert said["x-permission"] == route.permission
    for kind, content in (
        (route.body, said.get("requestBody", {}).get("content", {})),
        (route.answer, said["responses"][str(route.status)].get("content", {})),
    ):
        if kind not in (None, bytes, str):
            assert msgspec.convert(content["application/json"]["example"], kind) is not None


def test_the_document_is_for_any_key_and_true(shared_world: Any) -> None:
    key = shared_world.key("audit:read")
    assert key.get("/openapi.json") == msgspec.json.decode(msgspec.json.encode(document.make(app.ROUTES)))


def test_all_permissions_are_scopes_that_keys_can_have() -> None:
    asked = {route.permission for route in app.ROUTES} - {access.OPEN, access.ANY_KEY}
    assert asked <= set(keys.SCOPES)
    assert set(access.PERMISSIONS) - {access.OPEN, access.ANY_KEY} <= set(keys.SCOPES)
