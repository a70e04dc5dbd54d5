"""Counts over the lives of a server: nothing is counted twice, and nothing that was seen is lost."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from windlass.targets import counted

FIELDS = ("admitted", "ok", "rejected", "expired", "cancelled", "failed", "slow")


def _line(arm: str, generation: int, share: float, ok: int) -> dict[str, Any]:
    counts = dict.fromkeys(FIELDS, 0) | {"admitted": ok, "ok": ok}
    return {"arm": arm, "generation": generation, "share": share, "first_bad": None, **counts} | {
        "latency_s": {"counts": [ok, 0]}
    }


def _document(instance: str, weights: int, ok: dict[int, int], compared: int = 0) -> dict[str, Any]:
    lines = [_line("2", generation, 10.0, count) for generation, count in ok.items()]
    endpoint = {
        "weights": weights,
        "shares": {"1": 90.0, "2": 10.0},
        "outcomes": lines,
        "alone": [_line("1", 0, 100.0, 7)],
    }
    if compared:
        endpoint["shadow"] = {"compared": compared}
    return {"instance": instance, "bounds": [0.1], "endpoints": {"m": endpoint}}


def test_the_same_document_twice_counts_once(tmp_path: Path) -> None:
    kept = counted.Counted(tmp_path)
    once = kept.add("m", _document("a", 3, {3: 5}))
    assert kept.add("m", _document("a", 3, {3: 5})) == once
    assert counted.Counted(tmp_path).add("m", _document("a", 3, {3: 5})) == once


def test_what_the_server_tells_apart_no_more_stays(tmp_path: Path) -> None:
    kept = counted.Counted(tmp_path)
    kept.add("m", _document("a", 3, {3: 5}))
    found = kept.add("m", _document("a", 4, {4: 1}))
    assert {s.generation: s.counts["2"].ok for s in found.segments if "2" in s.counts} == {3 + 1: 5, 4 + 1: 1}


def test_arms_that_nobody_was_sent_to_have_their_share(tmp_path: Path) -> None:
    found = counted.Counted(tmp_path).add("m", _document("a", 3, {3: 5}))
    assert found.segments[-1].shares == {"1": 90.0, "2": 10.0}
    assert found.generation == found.segments[-1].generation


def test_an_unknown_deployment_has_no_counts(tmp_path: Path) -> None:
    assert counted.Counted(tmp_path).add("other", _document("a", 3, {3: 5})).segments == ()


def test_what_is_forgotten_begins_anew(tmp_path: Path) -> None:
    kept = counted.Counted(tmp_path)
    kept.add("m", _document("a", 3, {3: 5}))
    kept.forget("m")
    kept.forget("m")
    assert kept.add("m", _document("b", 1, {1: 2})).segments[-1].counts["2"].ok == 2


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=4), min_size=1, max_size=5), st.booleans())
def test_over_many_lives_all_that_was_seen_is_there_once(lives: list[list[int]], compared: bool) -> None:
    """Each life of the server is a list of increments; each is looked at twice."""
    with tempfile.TemporaryDirectory() as folder:
        kept = counted.Counted(Path(folder))
        for number, increments in enumerate(lives):
            seen: dict[int, int] = {}
            for generation, more in enumerate(increments, start=1):
                seen[generation] = more
                document = _document(str(number), generation, seen, sum(seen.values()) if compared else 0)
                kept.add("m", document)
                found = counted.Counted(Path(folder)).add("m", document)
        total = sum(sum(increments) for increments in lives)
        assert sum(s.counts["2"].ok for s in found.segments if "2" in s.counts) == total
        generations = [s.generation for s in found.segments]
        assert generations == sorted(set(generations))
        assert found.generation == generations[-1]
        if compared and found.mirrored is not None:
            assert found.mirrored.compared == total
