"""Evidence: what was measured or checked of a package, kept apart from it and keyed by its digest.

Written by verify, parity and later by benchmarks and rollouts. Must never be edited: a new finding is a new record.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Kind = Literal["parity", "verify", "bench", "evaluation", "shadow", "canary", "manual", "signature", "optimization"]


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One finding: of what kind, the verdict, its numbers, and on what machine and data it was found."""

    digest: str
    kind: Kind
    verdict: Literal["passed", "failed"]
    statistics: dict[str, Any] = {}
    window: str = ""
