"""What an alias's history means: where a rollback goes, and what was in force when."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st

from windlass.registry import aliases


def event(kind: aliases.Kind, target: int | None, generation: int = 1, alias: str = "production") -> aliases.Event:
    return aliases.Event("m", alias, generation, kind, None, target, "ada", "", (), float(generation))


def test_there_is_nothing_before_the_first() -> None:
    assert aliases.previous(()) is None
    assert aliases.previous((event("move", 1),)) is None


@hypothesis.given(st.lists(st.one_of(st.none(), st.integers(1, 5)), max_size=12))
def test_rollbacks_undo_moves_one_by_one(script: list[int | None]) -> None:
    """None in the script rolls back, if there is a version to go back to."""
    events: list[aliases.Event] = []
    stack: list[int] = []
    for step in script:
        back = aliases.previous(tuple(events))
        assert back == (stack[-2] if len(stack) > 1 else None)
        if step is not None:
            stack.append(step)
            events.append(event("move", step))
        elif back is not None:
            stack.pop()
            events.append(event("rollback", back))
            assert stack[-1] == back


def test_in_force_is_the_last_move_of_each_alias() -> None:
    events = (event("move", 1, 1), event("move", 2, 3), event("move", 7, 2, "staging"))
    assert aliases.in_force(events, 0.9) == ()
    assert [e.to_version for e in aliases.in_force(events, 2.0)] == [1, 7]
    assert [e.to_version for e in aliases.in_force(events, 3.0)] == [2, 7]
