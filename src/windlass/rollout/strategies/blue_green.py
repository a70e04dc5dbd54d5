"""Blue-green: the new release is loaded beside the old one and takes all requests; the way back stays warm.

For changes that cannot be mixed. Must never judge: once all requests go one way there is nothing to compare with.
"""

from __future__ import annotations

from windlass.rollout.strategies import base


class BlueGreen(base.Strategy, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """All at once when it is ready; for `keep_s` the old release stays loaded, and `abort` goes back without loading.

    A new release that fails in that time goes back by itself.
    """

    keep_s: float = 600.0

    def course(self, candidates: int) -> base.Course:
        base.one_candidate("blue_green", candidates)
        return base.Course((base.Stage(),), ready_s=self.ready_s, keep_s=self.keep_s)
