"""The ledger of alpha: how often, of an endpoint's releases, a good one may have been sent back.

Called by desired and the command line, with the rollouts that were. Must never forget a rollout: one that was aborted
or given up has spent its alpha too.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """One rollout that was judged: at which alpha, and how it ended (`outcome`: new, old, or empty: under way)."""

    rollout: int
    alpha: float
    outcome: str = ""


class Statement(msgspec.Struct, frozen=True):
    """`expected`: at most so many false rollbacks are to be expected of all that was judged; `words` say it."""

    releases: int
    rolled_back: int
    spent: float
    words: str


def state(entries: Iterable[Entry]) -> Statement:
    """What may be said of an endpoint's releases."""
    raise NotImplementedError
