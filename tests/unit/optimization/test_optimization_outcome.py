"""A recipe replayed: step by step, with every parameter written out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from windlass import errors
from windlass.optimization import findings, outcome, trials
from windlass.optimization import form as forms


class Search:
    """Writes down what it is asked for."""

    left, original = 100.0, "original"

    def __init__(self, fails: str = "") -> None:
        self.trials = self
        self.fails = fails
        self.asked: list[tuple[str, str, Mapping[str, Any]]] = []

    def defaults(self, root: str, name: str) -> dict[str, Any]:
        return {"epochs": 4, "root": root} if name == "prune" else {"weights": "QInt8", "per_channel": True}

    def made(self, root: str, step: forms.Step, seconds: float) -> str:
        if step.technique == self.fails:
            raise trials.Failed("the library broke")
        self.asked.append((root, step.technique, step.parameters))
        return step.technique

    def attempt(
        self, root: str, name: str, parameters: Mapping[str, Any], *, seconds: float
    ) -> findings.Candidate | None:
        self.asked.append((root, name, parameters))
        failed = findings.Candidate("", name, (), "failed", "It failed: no such node.")
        return failed if name == self.fails else None


STEPS = (forms.Step("prune", {"epochs": 8}), forms.Step("quantize", {"exclude": ["head"], "weights": "QUInt8"}))


def test_what_a_recipe_leaves_to_defaults_is_written_out() -> None:
    search = Search()
    outcome.replayed(search, STEPS)  # type: ignore[arg-type]
    assert search.asked == [
        ("original", "prune", {"epochs": 8, "root": "original"}),
        ("prune", "quantize", {"weights": "QUInt8", "per_channel": True, "exclude": ["head"]}),
    ]


def test_a_step_that_fails_is_named() -> None:
    with pytest.raises(errors.GateRefused, match="the recipe's step 1, prune, fails here: the library broke"):
        outcome.replayed(Search("prune"), STEPS)  # type: ignore[arg-type]


def test_a_last_step_that_fails_is_no_version_left_alone() -> None:
    with pytest.raises(
        errors.GateRefused, match=r"the recipe's step 2, quantize, fails here\. It failed: no such node"
    ):
        outcome.replayed(Search("quantize"), STEPS)  # type: ignore[arg-type]
