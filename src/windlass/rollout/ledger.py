"""The ledger of alpha: how often, of an endpoint's releases, a good one may have been sent back.

Called by the command line, with the rollouts that were. Must never forget a rollout: one that was aborted or given up
has spent its alpha too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from windlass.rollout import phrases


class Entry(msgspec.Struct, frozen=True):
    """One rollout: the alpha it was judged at (0: not on evidence), and how it ended (new, old, or "": under way)."""

    alpha: float
    outcome: str = ""


def entry(parameters: Any, outcome: str, *, compared: bool) -> Entry:
    """The entry of a rollout by its strategy's parameters (`strategies.base.Strategy`); `compared`: with an old one."""
    return Entry(getattr(parameters, "alpha", 0.0) if compared else 0.0, outcome)


def words(entries: Iterable[Entry]) -> str:
    """What may be said of an endpoint's releases, in a sentence or two.

    Each release spends its alpha whole, as soon as it starts: expectations add up, however the releases depend on each
    other, so that at an alpha of 0.01 at most 1 of 100 good releases is sent back in the long run.
    """
    judged = [one for one in entries if one.alpha > 0.0]
    if not judged:
        return "None was judged on evidence."
    spent = sum(one.alpha for one in judged)
    back = sum(one.outcome == "old" for one in judged)
    return (
        f"{len(judged)} judged on evidence, {back} ended at the old version. Had all been good, at most "
        f"{phrases.up(spent)} of them would be expected to be sent back: 1 in {len(judged) / spent:,.0f} releases."
    )
