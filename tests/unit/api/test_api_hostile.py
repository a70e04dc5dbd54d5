"""No name and no location that a caller gives reaches the file system: hostile ones, on every route that takes them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# Hostile names and locations

HOSTILE = st.one_of(
    st.sampled_from(
        ["..", ".", "../../etc/passwd", "a..b", "%2e%2e", "a\\b", "CON", "a\0b", "~root", "a/b", "-rf", "ä"]
    ),
    st.text(min_size=1, max_size=20),
)


@functools.cache
def one_key(world: Any) -> Any:
    return world.key()


@pytest.mark.threat("V4")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=HOSTILE)
def test_no_name_is_a_path(shared_world: Any, name: str) -> None:
    key = one_key(shared_world)
    quoted = "".join(f"%{byte:02X}" for byte in name.encode("utf-8", "surrogatepass"))
    before = outside(shared_world.plane.settings.home)
    for method, path in (
        ("GET", f"/models/{quoted}/versions"),
        ("PUT", f"/models/{quoted}/aliases/{quoted}"),
        ("GET", f"/blobs/sha256/{quoted}"),
        ("GET", f"/deployments/{quoted}"),
        ("POST", f"/keys/{quoted}/rotate"),
        ("GET", f"/digests/{quoted}/users"),
    ):
        answer = key(method, path, {"version": 1} if method == "PUT" else None)
        assert 400 <= answer.status_code < 500, (path, answer.text)
    assert outside(shared_world.plane.settings.home) == before


def outside(home: Path) -> set[str]:
    """What lies beside the home, and in it apart from the database."""
    return {
        str(path) for path in [*home.parent.glob(f"{home.name}*"), *home.rglob("*")] if "registry.db" not in path.name
    }


# The shapes by which another registry was made to read and write files of its server.
LOCATIONS = (
    "/etc/passwd",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "FILE:///etc/passwd",
    "//etc/passwd",
    "http://x/#/../../etc/passwd",
    "http://x/?/../../etc/passwd",
    "s3://bucket/../../etc",
    "..\\..\\etc\\passwd",
    "%2e%2e%2fetc%2fpasswd",
)


@pytest.mark.threat("V9")
@pytest.mark.parametrize("location", LOCATIONS)
def test_a_caller_never_names_a_location(world: Any, location: str) -> None:
    key = world.key()
    for field in ("source", "path", "artifact_location", "url"):
        body = {"digest": "sha256:" + "0" * 64, field: location}
        answer = key("POST", "/models/fraud/versions", body)
        assert (answer.status_code, "has no field" in answer.text) == (400, True)
    assert key("POST", "/models/fraud/versions", {"digest": location}).status_code == 400
    answer = key("PUT", "/deployments/fraud", {"name": "fraud", "ref": location})
    assert answer.status_code == 400
    assert "root:" not in answer.text
    assert key("PUT", "/deployments/fraud", {"name": "fraud", "ref": "fraud@1", "target": location}).status_code in (
        400,
        404,
    )
