"""Servers that follow an alias: what they are told when several aliases move at once."""

from __future__ import annotations

from typing import Any

import pytest

from windlass import errors, references, settings
from windlass.cli import follow, output
from windlass.client import control
from windlass.serving import launch
from windlass.types import spec


def endpoint(name: str, version: str) -> spec.Endpoint:
    return spec.Endpoint(name, (spec.Arm("sha256:" + version * 64, version, store="s", ref=name),))


def test_a_spec_that_came_between_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    in_force = [spec.Spec((endpoint("a", "1"), endpoint("b", "1")))]

    class Control:
        """Another move, of `b`, is in force just before the first spec of this one."""

        def __init__(self, _path: str) -> None:
            pass

        def current(self) -> spec.Spec:
            return in_force[-1]

        def apply(self, wanted: spec.Spec) -> None:
            if len(in_force) == 1:
                in_force.append(spec.Spec((endpoint("a", "1"), endpoint("b", "2")), generation=2))
            if wanted.generation <= in_force[-1].generation:
                raise errors.Conflict("not above")
            in_force.append(wanted)

        def status(self) -> dict[str, Any]:
            return {"addresses": {"listen": "http://127.0.0.1:1"}}

        def close(self) -> None:
            pass

    monkeypatch.setattr(control, "Control", Control)
    monkeypatch.setattr(launch, "running", lambda _home: [in_force[0]])
    monkeypatch.setattr(references, "endpoints", lambda _settings, texts: (endpoint(texts[0], "2"),))
    follow.alias_moved(output.Context(settings.Settings(), quiet=True), "a", "production")
    assert in_force[-1].generation == 3
    assert [(e.name, e.arms[0].version) for e in in_force[-1].endpoints] == [("a", "2"), ("b", "2")]
