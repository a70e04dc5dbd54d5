"""A control plane over HTTP: retries that repeat nothing, errors with the plane's words, keys that stay secret."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.client import plane

NEAR = "http://127.0.0.1:8080"


def answer(value: Any, status: int = 200, **headers: str) -> httpx.Response:
    return httpx.Response(status, content=msgspec.json.encode(value), headers=headers)


def refusal(code: str, status: int, **headers: str) -> httpx.Response:
    told = {"code": code, "message": "it is so", "hint": "do this", "request_id": "r"}
    return answer({"error": told}, status, **headers)


class Desk:
    """A plane that gives the answers it was given, and keeps what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []
        self.slept: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.asked.append(request)
        said = self.answers.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    def plane(self, url: str = NEAR, key: str = "wl_key") -> plane.Plane:
        return plane.Plane(url, key=key, transport=httpx.MockTransport(self), sleep=self.slept.append)


def test_a_question_goes_below_the_prefix_with_the_key() -> None:
    desk = Desk(answer({"a": 1}))
    assert desk.plane().get("/models", dict[str, int], search="x y", alias="", limit=None, force=False) == {"a": 1}
    (request,) = desk.asked
    assert str(request.url) == f"{NEAR}/api/v1/models?search=x+y&force=false"
    assert request.headers["authorization"] == "Bearer wl_key"


def test_a_lost_reply_is_asked_for_again_under_the_same_key() -> None:
    desk = Desk(httpx.ReadError("gone"), refusal("unavailable", 503), answer({"generation": 2}))
    assert desk.plane().send("PUT", "/deployments/a", dict[str, int], {"ref": "a@1"}) == {"generation": 2}
    keys = {request.headers["idempotency-key"] for request in desk.asked}
    assert len(desk.asked) == 3
    assert len(keys) == 1
    assert {request.content for request in desk.asked} == {b'{"ref":"a@1"}'}
    assert len(desk.slept) == 2


def test_two_changes_have_two_keys_and_a_callers_own_is_kept() -> None:
    desk = Desk(answer(None), answer(None), answer(None))
    there = desk.plane()
    there.send("POST", "/a", object)
    there.send("POST", "/a", object)
    there.send("POST", "/a", object, idempotency_key="mine")
    first, second, third = (request.headers["idempotency-key"] for request in desk.asked)
    assert first != second
    assert third == "mine"


def test_a_secret_is_never_asked_for_twice() -> None:
    desk = Desk(httpx.ReadError("gone"))
    with pytest.raises(errors.Unavailable):
        desk.plane().once("POST", "/keys", object, {"name": "a"})
    assert len(desk.asked) == 1


@pytest.mark.parametrize(("expected", "header"), [(7, ("if-match", '"7"')), (0, ("if-none-match", "*"))])
def test_what_was_seen_is_said(expected: int, header: tuple[str, str]) -> None:
    desk = Desk(answer(None))
    desk.plane().send("PUT", "/a", object, expected=expected)
    assert desk.asked[0].headers[header[0]] == header[1]


def test_a_plane_that_does_not_answer_is_unavailable_after_three_tries() -> None:
    desk = Desk(*(httpx.ConnectError("refused") for _ in range(3)))
    with pytest.raises(errors.Unavailable, match="refused") as caught:
        desk.plane().get("/models", object)
    assert "windlass up" in caught.value.hint
    assert len(desk.slept) == 2


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("not_found", 404, errors.NotFound),
        ("conflict", 409, errors.Conflict),
        ("gate_refused", 422, errors.GateRefused),
        ("unauthenticated", 401, errors.Unauthenticated),
        ("not_allowed", 403, errors.NotAllowed),
        ("usage", 400, errors.UsageError),
        ("corrupt_package", 422, errors.CorruptPackage),
        ("from a newer plane", 418, errors.WindlassError),
    ],
)
def test_the_planes_errors_come_out_as_ours_and_are_not_repeated(
    code: str, status: int, kind: type[errors.WindlassError]
) -> None:
    desk = Desk(refusal(code, status))
    with pytest.raises(errors.WindlassError) as caught:
        desk.plane().send("POST", "/a", object)
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.hint) == ("it is so", "do this")
    assert len(desk.asked) == 1


def test_the_plane_says_how_long_to_wait() -> None:
    desk = Desk(refusal("rate_limited", 429, **{"retry-after": "3"}), answer(1))
    assert desk.plane().get("/a", int) == 1
    assert desk.slept == [3.0]


@given(st.binary(max_size=200), st.sampled_from([400, 404, 500, 502, 503]))
def test_an_answer_that_is_no_planes_is_an_error_of_ours(body: bytes, status: int) -> None:
    desk = Desk(*(httpx.Response(status, content=body) for _ in range(3)))
    with pytest.raises(errors.WindlassError):
        desk.plane().get("/a", object)


def test_an_answer_of_another_shape_is_not_taken_for_one() -> None:
    desk = Desk(answer({"items": 3}))
    with pytest.raises(errors.Unavailable, match="not understood"):
        desk.plane().every("/models", str)


def test_a_list_is_followed_to_its_end_and_no_further_than_asked() -> None:
    pages = [
        answer({"items": ["a", "b"], "next": "b"}),
        answer({"items": ["c"], "next": "c"}),
        answer({"items": [], "next": ""}),
    ]
    desk = Desk(*pages)
    assert desk.plane().every("/models", str) == ("a", "b", "c")
    assert [request.url.params.get("after") for request in desk.asked] == [None, "b", "c"]
    desk = Desk(answer({"items": ["a", "b"], "next": "b"}))
    assert desk.plane().every("/models", str, limit=2) == ("a", "b")
    assert desk.asked[0].url.params["limit"] == "2"


def test_a_blob_is_sent_as_it_is_and_asked_for_by_digest() -> None:
    desk = Desk(httpx.Response(404), answer(None, 201), httpx.Response(200, content=b"bytes"))
    there, digest = desk.plane(), "sha256:" + "a" * 64
    assert not there.has_blob(digest)
    there.put_blob(digest, memoryview(b"bytes"))
    assert there.blob(digest) == b"bytes"
    assert [request.method for request in desk.asked] == ["HEAD", "PUT", "GET"]
    assert desk.asked[1].content == b"bytes"
    assert desk.asked[1].headers["content-length"] == "5"
    assert {request.url.path for request in desk.asked} == {f"/api/v1/blobs/sha256/{'a' * 64}"}


@pytest.mark.parametrize("url", ["http://plane.example:8080", "http://10.0.0.7:8080", "http://127.0.0.1.example"])
def test_a_key_is_not_sent_in_the_clear(url: str) -> None:
    desk = Desk(answer(1))
    with pytest.raises(errors.NotAllowed, match="in the clear"):
        desk.plane(url)
    desk.plane(url.replace("http:", "https:")).get("/a", int)
    assert desk.asked[0].headers["authorization"] == "Bearer wl_key"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://x", "http://", "http://me:pw@x", "http://x/y", "http://x?q=1"]
)
def test_what_is_no_planes_url_is_said(url: str) -> None:
    with pytest.raises(errors.UsageError):
        plane.Plane(url)


@given(st.text(max_size=80))
def test_a_part_of_a_path_stays_one_part(text: str) -> None:
    made: Callable[[str], str] = plane.quoted
    assert "/" not in made(text)
    assert "?" not in made(text)


# A plane that is somebody else's


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_nobody_is_followed_elsewhere(status: int) -> None:
    desk = Desk(*(httpx.Response(status, headers={"location": "https://evil.example/"}) for _ in range(2)))
    there = desk.plane()
    with pytest.raises(errors.WindlassError, match=str(status)):
        there.has_blob("sha256:" + "0" * 64)
    with pytest.raises(errors.WindlassError, match=str(status)):
        there.get("/models", object)
    assert {request.url.host for request in desk.asked} == {"127.0.0.1"}


def test_an_answer_that_does_not_end_is_not_read_to_its_end() -> None:
    read = 0

    def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 1024

    with pytest.raises(errors.Unavailable, match="larger than"):
        Desk(httpx.Response(200, content=endless())).plane().blob("sha256:" + "0" * 64, 10_000)
    assert read == 10
    with pytest.raises(errors.Unavailable, match="larger than"):
        Desk(httpx.Response(200, content=endless())).plane().get("/a", object)


def test_what_was_compressed_unasked_is_not_unpacked() -> None:
    bomb = gzip.compress(b"0" * 1_000_000)
    desk = Desk(httpx.Response(200, stream=httpx.ByteStream(bomb), headers={"content-encoding": "gzip"}))
    with pytest.raises(errors.Unavailable, match="compressed"):
        desk.plane().get("/a", object)


def test_a_list_that_goes_round_is_left() -> None:
    page = {"items": [1], "next": "a"}
    desk = Desk(answer(page), answer(page), answer(page))
    with pytest.raises(errors.Unavailable, match="does not go on"):
        desk.plane().every("/models", int)
    assert len(desk.asked) == 2


@pytest.mark.parametrize("after", ["9" * 400, "9" * 5000, "-1", "1e9"])
def test_a_retry_after_of_any_size_is_no_fault(after: str) -> None:
    desk = Desk(*(refusal("unavailable", 503, **{"retry-after": after}) for _ in "123"))
    with pytest.raises(errors.Unavailable, match="it is so"):
        desk.plane().get("/a", object)
    assert max(desk.slept) <= 5.0


@pytest.mark.parametrize("body", [b"[" * 100_000, b'"\xff"', b"{", b'"\\ud800"', b"\0"])
def test_what_is_no_answer_is_an_error_of_ours(body: bytes) -> None:
    for status in (200, 500):
        desk = Desk(*(httpx.Response(status, content=body) for _ in "123"))
        with pytest.raises(errors.WindlassError):
            desk.plane().get("/a", list[object])
