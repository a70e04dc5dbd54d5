"""A worker's specs: models and keys change together, or not at all."""

from __future__ import annotations

import asyncio

import pytest

from windlass import errors
from windlass.serving import worker
from windlass.types import spec


@pytest.mark.promise("P-17")
def test_a_spec_whose_keys_cannot_be_read_changes_nothing() -> None:
    async def drill() -> None:
        one = worker.Worker(asyncio.get_running_loop(), spec.Spec(()))
        door = one._door = DoorOfKeys()  # type: ignore[assignment]
        await one.apply(spec.Spec(()))
        keys = (spec.Key("abcdefghijkl", "0" * 64),)
        with pytest.raises(errors.UsageError, match="key_pepper"):
            await one.apply(spec.Spec((), generation=2, keys=keys, key_pepper="zz"))
        assert door.known == [()]
        # The same generation, mended, is taken.
        await one.apply(spec.Spec((), generation=2, keys=keys, key_pepper="00"))
        assert door.known == [(), keys]

    asyncio.run(drill())


class DoorOfKeys:
    """Remembers what keys it was given."""

    def __init__(self) -> None:
        self.known: list[tuple[spec.Key, ...]] = []

    def use_keys(self, known: tuple[spec.Key, ...], pepper: str) -> None:
        bytes.fromhex(pepper)
        self.known.append(known)
