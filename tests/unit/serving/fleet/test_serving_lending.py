"""Limits are lent to the workers that there are: who comes is told its share, who is gone leaves it to the others."""

from __future__ import annotations

import asyncio
from typing import Any

from windlass.serving import channel, lending
from windlass.serving.door import leases
from windlass.types import spec

KEY = spec.Key("k", "00", concurrency=8)
NAME = leases.name_of("k", "concurrency")


class Worker:
    """One that hears what it is lent."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.shares: list[dict[str, leases.Share]] = []

    def tell(self, body: channel.Body) -> None:
        assert isinstance(body, channel.Grant)
        self.shares.append(body.shares)

    @property
    def given(self) -> int:
        """Units that it was given, none of them given back."""
        return sum(shares[NAME].given for shares in self.shares if NAME in shares)


def _lent(*workers: Any) -> lending.Lending:
    shares = lending.Lending("")
    shares.use([KEY])
    for one in workers:
        shares.join(one)
    return shares


def test_what_is_lent_is_the_limit_whoever_comes_and_goes() -> None:
    first, second = Worker(1), Worker(2)
    shares = _lent(first)
    assert first.given == 8
    shares.join(second)  # type: ignore[arg-type]
    assert first.given + second.given == 8
    assert first.shares[-1][NAME].target == 4
    shares.demand(first, {NAME: leases.Want(0, returned=4)})  # type: ignore[arg-type]
    shares.use([KEY])
    assert second.given == 4
    shares.leave(first)  # type: ignore[arg-type]
    heard = len(first.shares)
    shares.use([KEY])
    assert len(first.shares) == heard
    assert second.given == 8


def test_who_is_gone_is_lent_nothing_whatever_it_said_last() -> None:
    one, other = Worker(1), Worker(2)
    shares = _lent(one, other)
    for _ in range(2):
        shares.leave(one)  # type: ignore[arg-type]
    shares.demand(one, {NAME: leases.Want(0, returned=8)})  # type: ignore[arg-type]

    async def briefly() -> None:
        task = asyncio.ensure_future(shares.run())
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(briefly())
    assert (one.given, other.given) == (8, 8)
