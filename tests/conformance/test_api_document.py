"""The API does what its document says: requests made from the document, good ones and bad ones, and their answers.

The requests are made by schemathesis from the document's schemas; every check that it has is made on every answer.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import errors as exceptions
from schemathesis import checks
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi import checks as openapi_checks

from windlass.api import app, routes

HERE = Path(__file__).parent
# A stream that does not end by itself; its own test reads it with `follow=false`.
ENDLESS = "/api/v1/events"
# That what fits its schema is taken is not among them: a reference, a glob or an ETag has rules that no schema tells.
CHECKS = [
    checks.not_a_server_error,
    *(
        getattr(openapi_checks, name)
        for name in (
            "status_code_conformance",
            "content_type_conformance",
            "response_headers_conformance",
            "response_schema_conformance",
            "negative_data_rejection",
            "unsupported_method",
        )
    ),
]


def _world() -> Any:
    """The world of the unit tests: one home, one application."""
    spec = importlib.util.spec_from_file_location("api_world", HERE.parent / "unit" / "api" / "conftest.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules["api_world"] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@pytest.fixture(scope="module")
def world() -> Iterator[Any]:
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="windlass-api-", dir=shared if shared.is_dir() else None))
    opened = _world().open_world(folder)
    key = opened.key()
    opened.push("fraud", "one")
    opened.push("fraud", "two")
    key("PUT", "/models/fraud/aliases/production", {"version": 1})
    key("PUT", "/deployments/fraud", {"name": "fraud", "ref": "fraud@1"})
    yield opened, key
    opened.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def api(world: Any) -> Any:
    opened, key = world
    # Its phase of systematic cases stumbles over defaults that are objects; the generated ones hold wrong requests too.
    said = {
        "phases": {"coverage": {"enabled": False}},
        "checks": {"negative_data_rejection": {"expected-statuses": ["4xx"]}},
    }
    return schemathesis.openapi.from_asgi(
        "/api/v1/openapi.json",
        opened.client.app,
        config=SchemathesisConfig.from_dict(
            {**said, "headers": {"authorization": f"Bearer {key.text}", "host": "127.0.0.1"}}
        ),
        headers={"authorization": f"Bearer {key.text}", "host": "127.0.0.1"},
    ).exclude(path=ENDLESS)


@pytest.mark.parametrize("route", [pytest.param(r, id=r.name) for r in app.ROUTES if r.full_path != ENDLESS])
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
def test_requests_made_from_the_document_are_answered_as_it_says(
    api: Any, route: routes.Route, mode: schemathesis.GenerationMode
) -> None:
    operation = api[route.full_path][route.method]

    @settings(
        max_examples=3,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def answered(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    try:
        answered()
    except exceptions.Unsatisfiable:
        # A route that takes nothing can be given nothing wrong.
        assert mode is schemathesis.GenerationMode.NEGATIVE
        assert route.body is None
