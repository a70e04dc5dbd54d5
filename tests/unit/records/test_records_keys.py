"""Keys on record: who a text belongs to, what a key may be made for, and that each change is in the audit log."""

from __future__ import annotations

import pytest

from windlass import errors
from windlass.records import audit, keys
from windlass.storage import database

PEPPER = "ab" * 32


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_text_is_known_as_long_as_its_key_is_good(rows: database.Database) -> None:
    clock = Clock()
    kept = keys.Keys(rows, PEPPER, clock)
    made = kept.create(keys.Wish("ci", ("model:push",), ("team-*",), expires_at=2_000.0), actor="ada")
    found = kept.authenticate(made.key)
    assert found == kept.get(made.id)
    assert found is not None
    assert (found.name, found.scopes, found.models) == ("ci", ("model:push",), ("team-*",))
    for wrong in ("", "x", made.key[:-1] + ("A" if made.key[-1] != "A" else "B"), f"wl_{'0' * 12}_{made.key[16:]}"):
        assert kept.authenticate(wrong) is None
    second = kept.rotate(made.id, actor="ada")
    assert kept.authenticate(made.key) is not None
    assert kept.authenticate(second.key) is not None
    kept.end_old(made.id, actor="ada")
    assert kept.authenticate(made.key) is None
    assert kept.authenticate(second.key) is not None
    clock.now = 2_000.0
    assert kept.authenticate(second.key) is None
    clock.now = 1_500.0
    kept.revoke(made.id, actor="ada")
    assert kept.authenticate(second.key) is None


def test_another_pepper_knows_nobody(rows: database.Database) -> None:
    made = keys.Keys(rows, PEPPER).create(keys.Wish("ci"), actor="ada")
    assert keys.Keys(rows, "cd" * 32).authenticate(made.key) is None


@pytest.mark.parametrize("scopes", [(), ("model:reed",), ("model:read", "*"), ("",)])
def test_a_scope_that_is_none_is_refused(rows: database.Database, scopes: tuple[str, ...]) -> None:
    with pytest.raises(errors.UsageError):
        keys.Keys(rows, PEPPER).create(keys.Wish("ci", scopes), actor="ada")
    with pytest.raises(errors.UsageError, match="model:read"):
        keys.Keys(rows, PEPPER).create(keys.Wish("ci", ("model:reed",)), actor="ada")


def test_each_change_of_a_key_is_noted_without_its_secret(rows: database.Database) -> None:
    kept = keys.Keys(rows, PEPPER, Clock())
    made = kept.create(keys.Wish("ci"), actor="ada")
    second = kept.rotate(made.id, actor="bob")
    kept.end_old(made.id, actor="bob")
    kept.revoke(made.id, actor="eve", reason="lost")
    kept.revoke(made.id, actor="eve", reason="lost")
    with rows.read() as c:
        entries = audit.entries(c, subject=f"key/{made.id}")
        assert audit.verify(c).bad == 0
    assert [(e.action, e.actor, e.reason) for e in entries] == [
        ("key.created", "ada", ""),
        ("key.rotated", "bob", ""),
        ("key.old_ended", "bob", ""),
        ("key.revoked", "eve", "lost"),
    ]
    said = str(entries)
    assert made.key not in said
    assert second.key not in said
    assert entries[0].detail["scopes"] == ["model:read", "model:predict"]
