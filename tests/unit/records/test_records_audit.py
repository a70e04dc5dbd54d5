"""The audit log: whole as long as nobody touches it; the first bad entry is named whatever is done to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import sqlalchemy as sa

from windlass import errors
from windlass.records import audit
from windlass.storage import database, tables
from windlass.types import strict_json

Fresh = Callable[[], database.Database]
A, H = tables.audit, tables.audit_head


def note(rows: database.Database, what: str, *, at: float = 1.0) -> None:
    with rows.write() as connection:
        audit.append(
            connection,
            actor="ada",
            action="alias.moved",
            subject=f"model/{what}",
            reason="why",
            detail={"to": 2, "share": 0.5},
            now=at,
        )


def filled(rows: database.Database, count: int = 6) -> list[audit.Head]:
    """A log, and its head after each entry."""
    heads = []
    for n in range(1, count + 1):
        note(rows, f"m{n}", at=float(n))
        with rows.read() as connection:
            heads.append(audit.head(connection))
    return heads


def verified(rows: database.Database, *heads: audit.Head) -> audit.Verified:
    with rows.read() as connection:
        return audit.verify(connection, heads)


def forge(rows: database.Database, entry: int, /, **values: Any) -> None:
    with rows.write() as connection:
        connection.execute(sa.update(A).where(A.c.number == entry).values(**values))


def rehash(rows: database.Database, number: int) -> str:
    """Give an entry the hash of what it says now, as a forger would."""
    with rows.write() as connection:
        row = connection.execute(sa.select(A).where(A.c.number == number)).mappings().one()
        said = {**row, "detail": json.loads(row["detail"])}
        del said["hash"]
        digest = hashlib.sha256(strict_json.canonical(said)).hexdigest()
        connection.execute(sa.update(A).where(A.c.number == number).values(hash=digest))
    return digest


def set_head(rows: database.Database, number: int, digest: str) -> None:
    with rows.write() as connection:
        connection.execute(sa.update(H).values(number=number, hash=digest))


def test_a_log_that_nobody_touched_is_whole(rows: database.Database) -> None:
    assert verified(rows) == audit.Verified(0, audit.Head(0, audit.FIRST))
    heads = filled(rows)
    assert verified(rows, *heads) == audit.Verified(6, heads[-1])
    with rows.read() as connection:
        entries = audit.entries(connection)
    assert [e.number for e in entries] == [1, 2, 3, 4, 5, 6]
    assert [e.previous for e in entries] == [audit.FIRST, *(e.hash for e in entries[:-1])]
    assert entries[0].detail == {"to": 2, "share": 0.5}


def test_anybody_can_recompute_a_hash(rows: database.Database) -> None:
    """From the documentation alone: SHA-256 of the canonical JSON of the other fields."""
    filled(rows, 1)
    with rows.read() as connection:
        (entry,) = audit.entries(connection)
    text = (
        '{"action":"alias.moved","actor":"ada","at":1.0,"detail":{"share":0.5,"to":2},"number":1,'
        f'"previous":"{"0" * 64}","reason":"why","subject":"model/m1"}}'
    )
    assert hashlib.sha256(text.encode()).hexdigest() == entry.hash


CHANGES = {
    "number": 60,
    "at": 99.0,
    "actor": "eve",
    "action": "alias.move",
    "subject": "model/other",
    "reason": "",
    "detail": '{"to":3}',
    "previous": "1" * 64,
    "hash": "1" * 64,
}


@pytest.mark.promise("P-76")
@pytest.mark.parametrize("number", [1, 3, 6])
@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_field_is_found(rows: database.Database, field: str, number: int) -> None:
    assert set(CHANGES) == set(A.c.keys())
    filled(rows)
    forge(rows, number, **{field: CHANGES[field]})
    found = verified(rows)
    assert found.bad == number
    assert found.entries == number - 1
    assert found.why


@pytest.mark.promise("P-76")
@pytest.mark.parametrize("text", ['{"to": 2, "share": 0.5}', '{"share":0.50,"to":2}', "not JSON", "[" * 5_000])
def test_a_detail_that_is_spelled_otherwise_is_found(rows: database.Database, text: str) -> None:
    filled(rows)
    forge(rows, 2, detail=text)
    assert verified(rows).bad == 2


@pytest.mark.promise("P-76")
def test_a_change_with_its_own_hash_made_right_is_found_at_the_next_entry(rows: database.Database) -> None:
    heads = filled(rows)
    forge(rows, 3, actor="eve")
    rehash(rows, 3)
    assert verified(rows).bad == 4
    assert verified(rows, heads[2]).bad == 3


@pytest.mark.promise("P-76")
@pytest.mark.parametrize("number", [1, 3, 6])
def test_a_deleted_entry_is_found(rows: database.Database, number: int) -> None:
    filled(rows)
    with rows.write() as connection:
        connection.execute(sa.delete(A).where(A.c.number == number))
    assert verified(rows).bad == number


@pytest.mark.promise("P-76")
@pytest.mark.parametrize("place", [1, 3, 6, 7])
def test_an_inserted_entry_is_found(rows: database.Database, place: int) -> None:
    heads = filled(rows)
    with rows.write() as connection:
        every = [dict(row) for row in connection.execute(sa.select(A).order_by(A.c.number)).mappings()]
        forged = {
            **every[0],
            "subject": "model/never",
            "previous": every[place - 2]["hash"] if place > 1 else audit.FIRST,
        }
        every.insert(place - 1, forged)
        connection.execute(sa.delete(A))
        connection.execute(sa.insert(A), [{**row, "number": n} for n, row in enumerate(every, 1)])
    digest = rehash(rows, place)
    found = verified(rows)
    # What follows no longer follows; at the very end the forger needs the head on record too.
    assert found.bad == min(place + 1, 7)
    if place == 7:
        set_head(rows, 7, digest)
        assert verified(rows).bad == 0, "nothing in the log itself can show an entry that was appended by its rules"
        assert verified(rows, *heads).bad == 0


@pytest.mark.promise("P-76")
def test_a_truncated_tail_is_shown_by_a_head_that_was_kept(rows: database.Database) -> None:
    heads = filled(rows)
    with rows.write() as connection:
        connection.execute(sa.delete(A).where(A.c.number > 4))
    assert verified(rows).bad == 5, "the end on record says that there were more"
    set_head(rows, *(heads[3].number, heads[3].hash))
    assert verified(rows).bad == 0, "a forger who mends the end as well can only be found from outside"
    assert verified(rows, heads[5]).bad == 5
    assert verified(rows, heads[3]).bad == 0


@pytest.mark.promise("P-76")
def test_a_fork_is_shown(fresh: Fresh) -> None:
    one, other = fresh(), fresh()
    shared = filled(one, 3)
    assert filled(other, 3) == shared
    note(one, "here")
    note(other, "there")
    with one.read() as here, other.read() as there:
        heads = audit.head(here), audit.head(there)
    assert verified(one, shared[2], heads[0]).bad == 0
    assert verified(one, heads[1]).bad == 4
    assert "forked" in verified(one, *heads).why
    assert verified(one, *heads).bad == 4


@pytest.mark.promise("P-76")
def test_a_file_that_was_replaced_is_shown(fresh: Fresh) -> None:
    kept = filled(fresh(), 5)
    other = fresh()
    for n in range(8):
        note(other, f"other{n}")
    assert verified(other).bad == 0
    assert verified(other, kept[-1]).bad == 5
    assert verified(fresh(), kept[-1]).bad == 1


@hypothesis.settings(
    max_examples=30, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(data=st.data())
def test_no_single_change_goes_unseen(fresh: Fresh, data: st.DataObject) -> None:
    rows = data.draw(st.just(fresh()))
    count = data.draw(st.integers(1, 4))
    heads = filled(rows, count)
    number = data.draw(st.integers(1, count))
    field = data.draw(st.sampled_from(sorted(set(CHANGES) - {"number"})))
    with rows.read() as connection:
        old = connection.execute(sa.select(A.c[field]).where(A.c.number == number)).scalar_one()
    new = data.draw(
        st.floats(allow_nan=False, allow_infinity=False) if field == "at" else st.text(st.characters(codec="utf-8"))
    )
    hypothesis.assume(new != old)
    forge(rows, number, **{field: new})
    assert verified(rows, heads[-1]).bad == number


def test_what_was_not_committed_is_not_noted(rows: database.Database) -> None:
    def fail() -> None:
        with rows.write() as connection:
            audit.append(connection, actor="ada", action="a.b", subject="model/x", now=1.0)
            raise errors.Conflict("no")

    with pytest.raises(errors.Conflict):
        fail()
    note(rows, "y")
    with rows.read() as connection:
        assert [e.subject for e in audit.entries(connection)] == ["model/y"]


def test_the_order_within_a_transaction_is_kept(rows: database.Database) -> None:
    with rows.write() as connection:
        for name in "abc":
            audit.append(connection, actor="ada", action="a.b", subject=f"model/{name}", now=1.0)
    with rows.read() as connection:
        assert [e.subject for e in audit.entries(connection)] == ["model/a", "model/b", "model/c"]
    assert verified(rows).entries == 3


def test_entries_are_filtered_and_paged(rows: database.Database) -> None:
    subjects = ["model/a", "model/a@2", "model/ab:production", "deployment/a", "key/0123", "digest/sha256:0"]
    with rows.write() as connection:
        for n, subject in enumerate(subjects):
            actor = "ada" if n % 2 else "bob"
            audit.append(connection, actor=actor, action=f"kind{n % 3}.done", subject=subject, now=float(n))

    def asked(**filters: Any) -> list[str]:
        with rows.read() as connection:
            return [e.subject for e in audit.entries(connection, **filters)]

    assert asked() == subjects
    assert asked(subject="model/a") == subjects[:1]
    assert asked(subject="model/a*") == subjects[:3]
    assert asked(actor="ada") == subjects[1::2]
    assert asked(action="kind1.*") == [subjects[1], subjects[4]]
    assert asked(since=1.0, until=3.0) == subjects[1:4]
    assert asked(after=2, limit=2) == subjects[2:4]
    assert asked(subject="model/%") == []


def test_a_long_log_is_checked_to_its_end(rows: database.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than what is read at once."""
    monkeypatch.setattr(audit, "_PAGE", 4)
    with rows.write() as connection:
        for n in range(12):
            audit.append(connection, actor="ada", action="a.b", subject=f"model/m{n}", now=1.0)
    assert verified(rows).entries == 12
    forge(rows, 11, actor="eve")
    assert verified(rows).bad == 11
