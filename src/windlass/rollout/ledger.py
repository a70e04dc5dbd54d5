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
    """`spent`: of the releases judged, so many good ones at most are expected to have been sent back."""

    releases: int
    rolled_back: int
    spent: float
    words: str


def state(entries: Iterable[Entry]) -> Statement:
    """What may be said of an endpoint's releases.

    Each release spends its alpha whole, as soon as it starts: expectations add up, however the releases depend on each
    other, so that at an alpha of 0.01 at most 1 of 100 good releases is sent back in the long run.
    """
    every = list({entry.rollout: entry for entry in entries}.values())
    spent = sum(entry.alpha for entry in every)
    back = sum(entry.outcome == "old" for entry in every)
    if not every:
        return Statement(0, 0, 0.0, "no release has been judged yet")
    words = (
        f"{len(every)} releases judged, {back} ended at the old version; had all been good, {spent:.2g} false "
        f"rollbacks at most would be expected: 1 in {len(every) / spent:,.0f} releases"
        if spent > 0.0
        else f"{len(every)} releases, {back} ended at the old version; none was judged on evidence"
    )
    return Statement(len(every), back, spent, words)
