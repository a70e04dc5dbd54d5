"""protocols/plain.py: the front page, the guide's address, health, and what an error says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from windlass import errors
from windlass.protocols import base, plain
from windlass.types import directory

View = Callable[..., directory.ModelView]
MakeHead = Callable[..., base.Head]
PLAIN = (("x", "FP32", ("batch", 2)),)


def test_errors_have_code_message_hint_and_request_id() -> None:
    plugin = plain.Plain()
    found = plugin.encode_error(errors.NotFound("no model 'm'.", hint="Did you mean 'n'?"), "req-9")
    assert found.status == 404
    assert json.loads(found.body) == {
        "error": {"code": "not_found", "message": "no model 'm'.", "hint": "Did you mean 'n'?", "request_id": "req-9"}
    }
    hidden = plugin.encode_error(errors.InternalError("/srv/secret", hint="see /var/log"), "req-9")
    assert hidden.status == 500
    assert json.loads(hidden.body)["error"]["hint"] == ""
    assert b"/" not in hidden.body


@pytest.mark.threat("V15")
@pytest.mark.parametrize("host", ["evil\r\nx: y", "$(touch x)", "a b", "'; rm -rf"])
def test_the_guide_repeats_only_a_host(make_view: View, make_models: Any, get_page: Any, host: str) -> None:
    head = base.Head("GET", "/", "", {b"host": host.encode()})
    _, guide = get_page(head, "/predict/{model}", make_models(make_view(PLAIN)), model="mlp")
    assert guide["example"].endswith(" http://localhost/predict/mlp")


def test_the_front_page_lists_the_models(make_view: View, make_head: MakeHead, make_models: Any, get_page: Any) -> None:
    _, page = get_page(make_head(method="GET"), "/", make_models(make_view(PLAIN)))
    assert [(one["name"], one["state"]) for one in page["models"]] == [("mlp", "READY"), ("sleeper", "UNAVAILABLE")]
    assert page["models"][0]["predict"] == "POST http://localhost:8000/predict/mlp"


def test_health(make_view: View, make_head: MakeHead, make_models: Any, get_page: Any) -> None:
    models = make_models(make_view(PLAIN))
    assert get_page(make_head(), "/health", models) == (200, {"live": True, "ready": True})
    models.is_ready = False
    assert get_page(make_head(), "/health", models) == (503, {"live": True, "ready": False})
