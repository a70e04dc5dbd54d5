"""Webhooks: who is told, how it is signed, and what becomes of a message that is not taken."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from windlass import errors, settings
from windlass.controller import webhooks
from windlass.records import outbox

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
GO_ON = threading.Event()


class Places:
    """What answers at every address, and what it was told."""

    def __init__(self) -> None:
        self.status = 200
        self.told: list[httpx.Request] = []
        self.failing: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.told.append(request)
        if request.url.host in self.failing:
            raise httpx.ConnectError("nobody is there")
        return httpx.Response(self.status, headers={"location": "https://elsewhere.example/"})


@pytest.fixture
def places() -> Places:
    return Places()


@pytest.fixture
def hooks(world: Any, places: Places, tmp_path: Path) -> Callable[..., webhooks.Webhooks]:
    file = tmp_path / "secret"
    file.write_text(SECRET)

    def make(*wanted: tuple[str, tuple[str, ...]]) -> webhooks.Webhooks:
        leading = world.leading()
        assert leading.beat()
        configured = [settings.Webhook(url=url, secret_file=file, events=events) for url, events in wanted]
        return webhooks.Webhooks(leading, configured, world.clock, transport=httpx.MockTransport(places))

    return make


def _tell(world: Any, event: str = "rollout.ended") -> None:
    with world.rows.write() as connection:
        outbox.add(connection, event, {"name": "m"}, now=world.now)


def _due(world: Any) -> list[tuple[int, int]]:
    with world.rows.read() as connection:
        return [(one.id, one.attempts) for one in outbox.due(connection, now=world.now)]


@pytest.mark.threat("V15")
def test_a_message_is_signed_and_told_once(world: Any, places: Places, hooks: Any) -> None:
    _tell(world)
    delivery = hooks(("https://a.example/hook", ("*",)))
    delivery.work(GO_ON)
    delivery.work(GO_ON)
    (told,) = places.told
    assert json.loads(told.content)["data"] == {"name": "m"}
    signed = b".".join((told.headers["webhook-id"].encode(), told.headers["webhook-timestamp"].encode(), told.content))
    digest = hmac.new(base64.b64decode(SECRET.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    assert told.headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    assert _due(world) == []


@pytest.mark.threat("V15")
@pytest.mark.parametrize("status", [301, 307, 404, 500])
def test_a_redirect_is_not_followed_and_counts_as_not_taken(
    world: Any, places: Places, hooks: Any, status: int
) -> None:
    _tell(world)
    places.status = status
    hooks(("https://a.example/hook", ("*",))).work(GO_ON)
    assert [request.url.host for request in places.told] == ["a.example"]
    assert _due(world) == []
    world.now += 6
    assert [attempts for _, attempts in _due(world)] == [1]


def test_only_who_missed_it_is_told_again_and_after_a_day_nobody(world: Any, places: Places, hooks: Any) -> None:
    _tell(world)
    delivery = hooks(
        ("https://a.example/", ("rollout.*",)), ("https://b.example/", ("*",)), ("https://c.example/", ("alias.*",))
    )
    places.failing = {"b.example"}
    delivery.work(GO_ON)
    assert [request.url.host for request in places.told] == ["a.example", "b.example"]
    for _ in range(100):
        world.now += 1_800
        delivery._lead.beat()
        delivery.work(GO_ON)
    hosts = [request.url.host for request in places.told]
    assert hosts.count("a.example") == 1
    assert hosts.count("b.example") > 10
    assert len({request.headers["webhook-id"] for request in places.told}) == 1
    world.now += 1e6
    assert _due(world) == []


@pytest.mark.threat("V15")
@pytest.mark.parametrize(
    "url",
    ["http://a.example/", "ftp://a.example/", "https:///x", "file:///etc/passwd", "https://me:pw@a.example/", "a"],
)
def test_an_address_that_is_not_https_is_refused(world: Any, hooks: Any, url: str) -> None:
    with pytest.raises(errors.UsageError):
        hooks((url, ("*",)))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9000/", "http://localhost/", "http://[::1]/", "https://a.example/"])
def test_this_machine_needs_no_encryption(world: Any, hooks: Any, url: str) -> None:
    hooks((url, ("*",)))


@pytest.mark.parametrize("text", ["", "short", "whsec_!!!", "whsec_c2hvcnQ="])
def test_a_secret_that_is_none_is_said(tmp_path: Path, text: str) -> None:
    file = tmp_path / "s"
    file.write_text(text)
    with pytest.raises(errors.UsageError):
        webhooks.secret_of(file)


def test_a_secret_that_is_no_text_is_said_and_stops_nothing(
    world: Any, places: Places, hooks: Any, tmp_path: Path
) -> None:
    delivery = hooks(("https://a.example/hook", ("*",)))
    (tmp_path / "secret").write_bytes(b"\xff" * 40)
    with pytest.raises(errors.UsageError, match="holds no text"):
        webhooks.secret_of(tmp_path / "secret")
    _tell(world)
    delivery.work(GO_ON)
    assert places.told == []
    assert _due(world) == []


def test_a_place_is_named_without_what_may_be_secret() -> None:
    assert webhooks.named("https://hooks.example:444/services/T0/B1/XYZ?token=abc") == "https://hooks.example"
