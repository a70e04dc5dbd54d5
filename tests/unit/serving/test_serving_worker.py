"""A worker's specs: models and new keys come together or not at all; revoked keys are gone before anything loads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from windlass import errors
from windlass.serving import worker
from windlass.types import spec

FIRST, SECOND = spec.Key("abcdefghijkl", "0" * 64), spec.Key("mnopqrstuvwx", "1" * 64)
BROKEN = spec.Endpoint("m", (spec.Arm("sha256:" + "0" * 64, "1", path="/nowhere"),))


class DoorOfKeys:
    """Remembers what keys it was given."""

    def __init__(self) -> None:
        self.known: list[tuple[spec.Key, ...]] = []

    def use_keys(self, known: tuple[spec.Key, ...], pepper: str) -> None:
        bytes.fromhex(pepper)
        self.known.append(known)


def run(drill: Callable[[worker.Worker, DoorOfKeys], Awaitable[None]], *keys: spec.Key) -> None:
    async def started() -> None:
        one = worker.Worker(asyncio.get_running_loop(), spec.Spec((), keys=keys))
        door = one._door = DoorOfKeys()  # type: ignore[assignment]
        await one.apply(spec.Spec((), keys=keys))
        await drill(one, door)

    asyncio.run(started())


@pytest.mark.promise("P-17")
def test_a_spec_whose_keys_cannot_be_read_changes_nothing() -> None:
    async def drill(one: worker.Worker, door: DoorOfKeys) -> None:
        before = list(door.known)
        with pytest.raises(errors.UsageError, match="key_pepper"):
            await one.apply(spec.Spec((), generation=2, keys=(FIRST,), key_pepper="zz"))
        assert door.known == before
        # The same generation, mended, is taken.
        await one.apply(spec.Spec((), generation=2, keys=(FIRST,), key_pepper="00"))
        assert door.known[-1] == (FIRST,)

    run(drill)


@pytest.mark.promise("P-17")
def test_a_revoked_key_is_gone_even_if_the_models_of_its_spec_do_not_load() -> None:
    async def drill(one: worker.Worker, door: DoorOfKeys) -> None:
        with pytest.raises(errors.Unavailable, match="cannot be read"):
            await one.apply(spec.Spec((BROKEN,), generation=2, keys=(SECOND,)))
        # The new key waits for its models.
        assert door.known[-1] == ()
        await one.apply(spec.Spec((), generation=2, keys=(SECOND,)))
        assert door.known[-1] == (SECOND,)

    run(drill, FIRST)


def test_an_old_spec_revokes_nothing() -> None:
    async def drill(one: worker.Worker, door: DoorOfKeys) -> None:
        with pytest.raises(errors.Conflict):
            await one.apply(spec.Spec((), generation=1))
        assert door.known[-1] == (FIRST,)

    run(drill, FIRST)
