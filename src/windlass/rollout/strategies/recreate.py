"""Recreate: the new release is loaded beside the old one, takes all requests at once, and the old one is released.

The default, and what a rollback does. Must never judge: it asks for no evidence, and says so.
"""

from __future__ import annotations

from windlass.rollout.strategies import base


class Recreate(base.Strategy, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """All at once when it is ready. Only a release that cannot be loaded, fails or is called back goes back."""

    def course(self, candidates: int) -> base.Course:
        base.one_candidate("recreate", candidates)
        return base.Course((base.Stage(),), ready_s=self.ready_s, keep_s=self.keep_s)
