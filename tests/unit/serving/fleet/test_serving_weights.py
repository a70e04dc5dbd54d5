"""The generations of endpoints' weights: one for each state, and never one for two."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from windlass.serving import weights
from windlass.serving.metrics import counters
from windlass.types import spec

NAMES = ("a", "b")
STATES = st.fixed_dictionaries({name: st.integers(0, 3) for name in NAMES})


def endpoint(name: str, state: int) -> spec.Endpoint:
    share = 10.0 * state
    arms = (spec.Arm("sha256:0", "1", share=100 - share), spec.Arm("sha256:1", "2", share=share))
    return spec.Endpoint(name, arms, sticky="caller", salt="s", epoch=state % 2)


def test_a_generation_ends_when_its_endpoint_changes() -> None:
    kept = weights.Weights()
    first = spec.Spec((endpoint("a", 1), endpoint("b", 1)), 5)
    kept.keep(first, kept.propose(first))
    assert kept.in_force == {"a": 5, "b": 5}
    # Keys, another endpoint, or the same again: nothing of this one's changes.
    second = spec.Spec((endpoint("a", 2), endpoint("b", 1)), 9, keys=(spec.Key("k", "0"),))
    kept.keep(second, kept.propose(second))
    assert kept.in_force == {"a": 9, "b": 5}
    assert kept.drawn("a")[9].shares == {"1": 80.0, "2": 20.0}
    assert [kept.drawn("a")[at].remembered for at in (5, 9)] == [True, False]


@given(st.lists(st.tuples(STATES, st.booleans()), max_size=30))
def test_no_generation_is_ever_of_two_states(steps: list[tuple[dict[str, int], bool]]) -> None:
    kept = weights.Weights()
    used: dict[tuple[str, int], int] = {}
    for number, (states, taken) in enumerate(steps, start=1):
        # Refused specs are tried again under the same number, with other shares.
        wanted = spec.Spec(tuple(endpoint(name, states[name]) for name in NAMES), number // 2 + 1)
        before = dict(kept.in_force)
        proposed = kept.propose(wanted)
        for name in NAMES:
            at = proposed[name]
            assert used.setdefault((name, at), states[name]) == states[name]
            assert kept.drawn(name)[at].shares == {"1": 100.0 - 10 * states[name], "2": 10.0 * states[name]}
            assert at >= before.get(name, 0)
        if taken:
            kept.keep(wanted, proposed)
        assert kept.in_force == (proposed if taken else before)


def test_the_last_generations_are_remembered() -> None:
    kept = weights.Weights()
    for generation in range(1, 3 * counters.GENERATIONS):
        wanted = spec.Spec((endpoint("a", 1 + generation % 2),), generation)
        kept.keep(wanted, kept.propose(wanted))
    last = 3 * counters.GENERATIONS - 1
    assert list(kept.drawn("a")) == list(range(last - counters.GENERATIONS + 1, last + 1))


def test_one_arm_has_all() -> None:
    alone = msgspec.structs.replace(endpoint("a", 1), arms=endpoint("a", 1).arms[:1])
    assert weights.shares(alone) == {"1": 100.0}
