"""Scores told afterwards: duplicates and revisions, joined to arms by request or key, counted once and in one order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from windlass import errors
from windlass.controller import feedback as joining
from windlass.controller import labelled
from windlass.records import feedback, rollouts
from windlass.serving.routing import sticky
from windlass.storage import database
from windlass.types import deployment

NOW = 1_000_000.0
NAME = "fraud"


class Exposed(msgspec.Struct, frozen=True):
    time: float
    request: str
    arm: str
    key: str = ""


class Differing(msgspec.Struct, frozen=True):
    time: float
    request: str
    answered: str
    mirrored: str
    arm: str = "3"
    shadow: str = "4"
    epoch: int = 7


class Target:
    """A log of who was sent where, and nothing else."""

    def __init__(self) -> None:
        self.log: list[Exposed] = []
        self.differed: list[Differing] = []
        self.reads = 0

    def send(self, request: str, arm: str, key: str = "", at: float = NOW) -> None:
        self.log.append(Exposed(at, request, arm, key))

    def exposures(self, name: str, since: float) -> Iterator[Exposed]:
        assert name == NAME
        self.reads += 1
        return iter([one for one in self.log if one.time >= since])

    def differing(self, name: str, since: float) -> Iterator[Differing]:
        assert name == NAME
        return iter([one for one in self.differed if one.time >= since])

    def apply(self, wanted: deployment.Wanted) -> None: ...
    def observe(self, name: str) -> deployment.Observed: ...  # type: ignore[empty-body]
    def remove(self, name: str) -> None: ...


class World:
    def __init__(self, rows: database.Database) -> None:
        self.rows, self.target, self.now = rows, Target(), NOW
        self.restart()

    def restart(self) -> None:
        self.joiner = joining.Feedback(self.rows, lambda: self.now)

    def tell(self, *given: feedback.Given) -> feedback.Added:
        with self.rows.write() as connection:
            return feedback.add(connection, NAME, given, now=self.now)

    def scores(self, since: float = NOW) -> dict[str, tuple[float, ...]]:
        seen = deployment.Observed(at=self.now)
        return self.joiner.scores(self.target, NAME, seen, since).scores

    def standing(self) -> feedback.Standing:
        with self.rows.read() as connection:
            return feedback.standing(connection, NAME)


@pytest.fixture
def world(place: Any) -> Iterator[World]:
    rows = database.open_database(place.url)
    yield World(rows)
    rows.close()


def test_scores_are_joined_by_request_and_the_rest_waits(world: World) -> None:
    world.target.send("r1", "3")
    world.target.send("r2", "4")
    added = world.tell(
        *(feedback.Given(score, request=name) for name, score in (("r1", 1.0), ("r2", 0.5), ("r9", 0.0)))
    )
    assert added == feedback.Added(received=3, new=3, revised=0, duplicate=0)
    assert world.scores() == {"3": (1.0,), "4": (0.5,)}
    told = world.standing()
    assert (told.labels, told.joined, told.unjoined, told.late) == (3, 2, 1, 0)
    assert told.arms == {"3": feedback.Arm(1, 1.0), "4": feedback.Arm(1, 0.5)}
    # The line of r9 reaches the disk late.
    world.target.send("r9", "4", at=NOW + 1)
    assert world.scores() == {"3": (1.0,), "4": (0.5, 0.0)}
    assert world.standing().unjoined == 0


def test_the_same_score_again_is_nothing_and_another_is_a_revision(world: World) -> None:
    world.target.send("r1", "4")
    first = feedback.Given(1.0, request="r1", label="yes")
    world.tell(first)
    assert world.tell(first, first) == feedback.Added(2, 0, 0, 2)
    assert world.scores() == {"4": (1.0,)}
    assert world.tell(feedback.Given(0.0, request="r1", label="no")) == feedback.Added(1, 0, 1, 0)
    assert world.scores() == {"4": (1.0,)}, "what has counted stays as it counted"
    told = world.standing()
    assert (told.labels, told.revised, told.arms["4"]) == (1, 1, feedback.Arm(1, 0.0))


def test_of_revisions_that_wait_together_the_newest_counts(world: World) -> None:
    world.tell(feedback.Given(1.0, request="r1"), feedback.Given(0.0, request="r1"), feedback.Given(0.25, request="r1"))
    world.target.send("r1", "4")
    assert world.scores() == {"4": (0.25,)}


def test_scores_are_joined_by_sticky_key_and_a_key_counts_once(world: World) -> None:
    ada, ben = (sticky.Sticky("salt").place(key)[1] for key in (b"ada", b"ben"))
    world.target.send("r1", "3", ada)
    world.target.send("r2", "3", ada)
    world.target.send("r3", "4", ben)
    world.tell(feedback.Given(0.5, request="r1"), feedback.Given(1.0, request="r2"), feedback.Given(0.75, key=ben))
    assert world.scores() == {"3": (0.5,), "4": (0.75,)}
    assert world.standing().late == 1
    world.restart()
    world.tell(feedback.Given(0.1, request="r2"), feedback.Given(0.2, key=ada), feedback.Given(0.3, request="r3"))
    found = world.scores()
    assert found["3"] == (0.5,), "after a restart it is still known whose key has counted"


def test_what_comes_after_the_rollout_is_told_and_does_not_count(world: World) -> None:
    world.target.send("r1", "4", at=NOW - 50)
    world.tell(feedback.Given(1.0, request="r1"))
    assert world.scores(since=NOW) == {}, "it was sent before the rollout began"
    assert world.standing().unjoined == 1


def test_nothing_is_read_of_the_log_while_no_score_waits(world: World) -> None:
    world.target.send("r1", "4")
    assert world.scores() == {}
    assert world.target.reads == 0
    world.tell(feedback.Given(1.0, request="r1"))
    world.scores()
    world.scores()
    assert world.target.reads == 1


def test_a_clock_set_back_does_not_reorder(world: World) -> None:
    for number in range(6):
        world.target.send(f"r{number}", "4")
        world.tell(feedback.Given(number / 10, request=f"r{number}"))
        world.scores()
        world.now -= 1000
    with world.rows.read() as connection:
        assert feedback.scores(connection, NAME, since=0.0) == {"4": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)}


@pytest.mark.parametrize(
    "given",
    [
        feedback.Given(1.1, request="r"),
        feedback.Given(-0.1, request="r"),
        feedback.Given(float("nan"), request="r"),
        feedback.Given(1.0),
        feedback.Given(1.0, request="r", key="k"),
        feedback.Given(1.0, request="r" * 129),
        feedback.Given(1.0, request="r", at=float("inf")),
    ],
)
def test_what_is_no_score_is_refused_with_its_row(given: feedback.Given) -> None:
    with pytest.raises(errors.UsageError, match="item 1"):
        feedback.check((feedback.Given(1.0, request="r"), given))


def test_too_many_at_once_are_refused() -> None:
    with pytest.raises(errors.UsageError):
        feedback.check([feedback.Given(1.0, request="r")] * (feedback.MOST + 1))
    with pytest.raises(errors.UsageError):
        feedback.check([])


@hypothesis.settings(max_examples=10, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@hypothesis.given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(0, 5), st.sampled_from(["3", "4"])),
            st.tuples(st.just("tell"), st.integers(0, 5), st.sampled_from([0.0, 0.5, 1.0])),
            st.tuples(st.sampled_from(["look", "restart"]), st.just(0), st.just(0)),
        ),
        max_size=25,
    )
)
def test_what_was_seen_is_a_beginning_of_what_is_seen_later(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, int, Any]]
) -> None:
    """Evidence that is looked at after each score holds only if the past never changes."""
    rows = database.open_database(f"sqlite:///{tmp_path_factory.mktemp('rows') / 'registry.db'}")
    world, sent, seen = World(rows), dict[str, str](), dict[str, tuple[float, ...]]()
    try:
        for what, number, value in [*script, ("look", 0, 0)]:
            if what == "send":
                world.target.send(f"r{number}", value)
                sent.setdefault(f"r{number}", value)
            elif what == "tell":
                world.tell(feedback.Given(value, request=f"r{number}"))
            elif what == "restart":
                world.restart()
            else:
                now = world.scores()
                assert all(now.get(arm, ())[: len(past)] == past for arm, past in seen.items())
                assert sum(map(len, now.values())) <= len(sent), "no request counts twice"
                seen = now
            world.now += 1
    finally:
        rows.close()


def _rollout(**changed: Any) -> rollouts.Rollout:
    old, new = (deployment.Release(NAME, version, f"sha256:{version:064x}") for version in (3, 4))
    fields: dict[str, Any] = dict.fromkeys(rollouts.Rollout.__struct_fields__)
    fields |= {"id": "r", "deployment": NAME, "number": 7, "old": old, "new": new, "started_at": NOW}
    return rollouts.Rollout(**(fields | changed))


def _labelled(world: World, under_way: rollouts.Rollout | None = None) -> tuple[int, int, int]:
    seen = deployment.Observed(at=world.now)
    told = world.joiner.labelled(world.target, under_way or _rollout(), seen).labelled
    assert told is not None
    return told.old, told.new, told.neither


def test_labels_say_who_was_right_about_mirrored_requests(world: World) -> None:
    for number, classes in enumerate((("fine", "fraud"), ("fraud", "fine"), ("fine", "fraud"), ("other", "fine"))):
        world.target.differed.append(Differing(NOW + number, f"r{number}", *classes))
    assert _labelled(world) == (0, 0, 0)
    world.tell(*(feedback.Given(0.0, request=f"r{number}", label=" fraud") for number in range(4)))
    # About r1 the old version was right, about r0 and r2 the new one, about r3 neither.
    assert _labelled(world) == (1, 2, 1)
    assert _labelled(world) == (1, 2, 1)
    world.restart()
    assert _labelled(world) == (1, 2, 1), "another controller counts the same"


def test_the_first_line_and_the_first_label_of_a_request_count(world: World) -> None:
    world.target.differed += [Differing(NOW, "r1", "a", "b"), Differing(NOW + 1, "r1", "b", "a")]
    world.tell(feedback.Given(1.0, request="r1"))
    assert _labelled(world) == (0, 0, 0), "a score says nothing of the other version"
    world.tell(feedback.Given(1.0, request="r1", label="a"))
    world.tell(feedback.Given(0.0, request="r1", label="b"))
    assert _labelled(world) == (1, 0, 0)
    world.restart()
    assert _labelled(world) == (1, 0, 0)


def test_requests_of_other_rollouts_and_arms_do_not_count(world: World) -> None:
    world.target.differed += [
        Differing(NOW, "r1", "a", "b", epoch=6),
        Differing(NOW, "r2", "a", "b", arm="2"),
        Differing(NOW, "r3", "a", "b", shadow="5"),
        Differing(NOW, "r4", "a", "b"),
    ]
    world.tell(*(feedback.Given(0.0, request=f"r{number}", label="b") for number in range(5)))
    assert _labelled(world) == (0, 1, 0)
    assert _labelled(world, _rollout(id="s", number=6)) == (0, 1, 0)
    assert _labelled(world, _rollout(id="t", number=8)) == (0, 0, 0)


def test_what_is_kept_in_mind_of_mirrored_requests_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "MOST_REQUESTS", 2)
    world.target.differed += [Differing(NOW + number, f"r{number}", "a", "b") for number in range(5)]
    world.tell(*(feedback.Given(0.0, request=f"r{number}", label="b") for number in range(5)))
    assert _labelled(world) == (0, 2, 0)
