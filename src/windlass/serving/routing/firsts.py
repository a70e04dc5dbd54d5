"""Sticky keys that had a bad event in a rollout's epoch: the first of each counts for its arm, over all workers.

A worker keeps which it has told (`Told`), the supervisor which it has heard of (`Heard`). Keys are 64 bits of their
keyed hash. Must never hold a key itself, nor grow without bound: an epoch with more keys than `MOST` counts no further
ones, in any arm.

Exact but for three cases: a key whose bad events meet two workers within a tenth of a second counts where its worker
tells first (a key's arm is the same in both unless the shares change in that moment); what a worker that is killed had
not told is not counted, nor what was under way in it; two keys are taken for one with a probability of 2^-64 a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

MOST = 65_536
# Epochs of an endpoint that are remembered: a spec that is refused may have begun one.
_EPOCHS = 4


class Bad(msgspec.Struct, frozen=True, array_like=True):
    """A key that had a bad event: `key` is its hash, `arm` and `generation` where the request had been sent."""

    endpoint: str
    epoch: int
    arm: str
    generation: int
    key: int


class Told:
    """A worker's part. All of it belongs to the loop's thread."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, set[int]]] = {}
        self._new: list[Bad] = []

    def teller(self, endpoint: str, epoch: int, arm: str, generation: int) -> Callable[[int], None]:
        """What is to be called with the key of each request of an arm that ended badly."""
        last = self._known.get(endpoint)
        if last is None or last[0] != epoch:
            last = self._known[endpoint] = (epoch, set())
        known, new = last[1], self._new

        def tell(key: int) -> None:
            if key not in known and len(known) < MOST:
                known.add(key)
                new.append(Bad(endpoint, epoch, arm, generation, key))

        return tell

    def take(self) -> tuple[Bad, ...]:
        """Those that were not taken before."""
        if not self._new:
            return ()
        found = tuple(self._new)
        self._new.clear()
        return found


class Heard:
    """The supervisor's part: how many keys had their first bad event where."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, set[int]]] = {}
        self._counts: dict[str, dict[tuple[str, int], int]] = {}

    def hear(self, told: Sequence[Bad]) -> None:
        """What a worker says."""
        for one in told:
            epochs = self._known.setdefault(one.endpoint, {})
            known = epochs.get(one.epoch)
            if known is None:
                known = epochs[one.epoch] = set()
                if len(epochs) > _EPOCHS:
                    del epochs[next(iter(epochs))]
            if one.key not in known and len(known) < MOST:
                known.add(one.key)
                counts = self._counts.setdefault(one.endpoint, {})
                counts[one.arm, one.generation] = counts.get((one.arm, one.generation), 0) + 1

    def count(self, endpoint: str, arm: str, generation: int) -> int:
        """Keys whose first bad event of an epoch fell on this arm under this generation of the weights."""
        return self._counts.get(endpoint, {}).get((arm, generation), 0)
