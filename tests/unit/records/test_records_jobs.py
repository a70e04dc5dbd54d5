"""Jobs and events: each is done by one, none is lost when its process dies, and no id comes twice."""

from __future__ import annotations

import pytest

from windlass import errors
from windlass.records import jobs, outbox
from windlass.storage import database


def test_jobs_are_taken_in_order_and_once(rows: database.Database) -> None:
    with rows.write() as c:
        made = [
            jobs.enqueue(c, kind, {"n": n}, actor="ada", now=1.0)
            for n, kind in enumerate(["verify", "check", "verify"])
        ]
        taken = [jobs.claim(c, "a", ttl_s=10, now=2.0) for _ in range(4)]
    assert [None if job is None else job.id for job in taken] == [*(job.id for job in made), None]
    assert taken[0] is not None
    assert (taken[0].state, taken[0].attempts, taken[0].arguments) == ("RUNNING", 1, {"n": 0})
    with rows.write() as c:
        jobs.enqueue(c, "check", {}, actor="ada", now=3.0)
        assert jobs.claim(c, "a", ttl_s=10, now=3.0, kinds=("verify",)) is None


def test_a_job_whose_process_died_is_taken_again_and_in_the_end_fails(rows: database.Database) -> None:
    with rows.write() as c:
        made = jobs.enqueue(c, "verify", {}, actor="ada", now=0.0)
        first = jobs.claim(c, "a", ttl_s=10, now=0.0)
        assert first is not None
        assert jobs.renew(c, first, ttl_s=10, now=5.0)
        assert jobs.claim(c, "b", ttl_s=10, now=14.9) is None
        second = jobs.claim(c, "b", ttl_s=10, now=15.0)
        assert second is not None
        assert (second.id, second.attempts, second.holder) == (made.id, 2, "b")
        assert not jobs.renew(c, first, ttl_s=10, now=15.0)
        assert not jobs.finish(c, first, state="DONE", result={}, now=15.0), "it is somebody else's now"
        assert jobs.claim(c, "b", ttl_s=10, now=100.0) is not None
        assert jobs.claim(c, "b", ttl_s=10, now=200.0) is None
        ended = jobs.get(c, made.id)
    assert (ended.state, ended.ended_at) == ("FAILED", 200.0)
    assert "died 3 times" in ended.result["error"]


def test_the_end_of_a_job_is_kept(rows: database.Database) -> None:
    with rows.write() as c:
        made = jobs.enqueue(c, "verify", {}, actor="ada", now=0.0)
        taken = jobs.claim(c, "a", ttl_s=10, now=0.0)
        assert taken is not None
        assert jobs.finish(c, taken, state="DONE", result={"rows": 3}, now=1.0)
        assert not jobs.finish(c, taken, state="FAILED", result={}, now=2.0)
        ended = jobs.get(c, made.id)
        assert (ended.state, ended.result, ended.ended_at) == ("DONE", {"rows": 3}, 1.0)
        jobs.enqueue(c, "check", {}, actor="ada", now=3.0)
        assert [j.state for j in jobs.every(c)] == ["QUEUED", "DONE"]
        assert jobs.every(c, state="DONE") == jobs.every(c, kind="verify") == jobs.every(c, before=2) == (ended,)
        with pytest.raises(errors.NotFound):
            jobs.get(c, 77)


def add(rows: database.Database, *names: str, now: float = 0.0) -> None:
    with rows.write() as c:
        for name in names:
            outbox.add(c, name, {"name": name}, now=now)


def test_events_are_delivered_and_stay_for_readers(rows: database.Database) -> None:
    add(rows, "a.b", "c.d")
    with rows.write() as c:
        first, second = outbox.due(c, now=0.0)
        assert (first.event, first.payload, first.missing) == ("a.b", {"name": "a.b"}, None)
        outbox.done(c, first.id, now=1.0)
        outbox.postpone(c, second.id, next_at=5.0, missing=["https://b"])
    with rows.write() as c:
        assert outbox.due(c, now=4.9) == ()
        (again,) = outbox.due(c, now=5.0)
        assert (again.attempts, again.missing) == (1, ("https://b",))
        outbox.postpone(c, second.id, next_at=9.0)
    with rows.read() as c:
        assert [e.id for e in outbox.after(c, 0)] == [first.id, second.id]
        assert outbox.after(c, first.id, limit=1)[0].missing == ("https://b",)
        assert outbox.newest(c) == second.id


def test_an_id_is_never_given_twice(rows: database.Database) -> None:
    add(rows, "a.b", "c.d")
    with rows.write() as c:
        for event in outbox.due(c, now=0.0):
            outbox.done(c, event.id, now=0.0)
    with rows.write() as c:
        outbox.forget(c, now=outbox.KEPT_S + 1)
        assert [e.event for e in outbox.after(c, 0)] == ["c.d"]
    add(rows, "e.f")
    with rows.write() as c:
        outbox.forget(c, now=outbox.KEPT_S + 1)
        assert [(e.id, e.event) for e in outbox.after(c, 0)] == [(3, "e.f")]
        outbox.forget(c, now=1e12)
        assert outbox.newest(c) == 3, "what was not delivered is never dropped"
    with rows.read() as c:
        assert outbox.newest(c) == 3


def test_an_empty_outbox(rows: database.Database) -> None:
    with rows.read() as c:
        assert outbox.newest(c) == 0
