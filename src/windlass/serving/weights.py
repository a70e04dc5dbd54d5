"""Which shares were drawn under which generation of an endpoint's weights, in every worker alike.

Kept by the fleet, told with the outcomes. A generation ends when its endpoint changes, not with every spec. Must never
give one generation to two states of an endpoint, even if the second is a spec that a worker refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from windlass.serving.metrics import counters, outcomes
from windlass.types import spec


class Weights:
    """The generations of one server's life. They start at the first spec's generation, and only grow."""

    def __init__(self) -> None:
        self.in_force: Mapping[str, int] = {}
        self._endpoints: dict[str, spec.Endpoint] = {}
        self._history: dict[str, dict[int, outcomes.Drawn]] = {}
        self._last = 0

    def propose(self, wanted: spec.Spec) -> dict[str, int]:
        """The generation of each endpoint if this spec came into force: a new one for each that is another then."""
        fresh = max(self._last + 1, wanted.generation)
        found: dict[str, int] = {}
        for name, endpoint in _endpoints(wanted).items():
            if self._endpoints.get(name) == endpoint:
                found[name] = self.in_force[name]
                continue
            found[name] = self._last = fresh
            history = self._history.setdefault(name, {})
            remembered = bool(endpoint.sticky and endpoint.epoch and len(endpoint.arms) > 1)
            history[fresh] = outcomes.Drawn(shares(endpoint), remembered)
            if len(history) > counters.GENERATIONS:
                del history[next(iter(history))]
        return found

    def keep(self, wanted: spec.Spec, generations: Mapping[str, int]) -> None:
        """A spec came into force with these."""
        self._endpoints = _endpoints(wanted)
        self.in_force = generations

    def drawn(self, endpoint: str) -> Mapping[int, outcomes.Drawn]:
        """What was in force of an endpoint, by generation, for the last few of them."""
        return self._history.get(endpoint, {})


def shares(endpoint: spec.Endpoint) -> dict[str, float]:
    """The shares of an endpoint's arms in percent; one alone has all."""
    return {arm.name: arm.share if len(endpoint.arms) > 1 else 100.0 for arm in endpoint.arms}


def _endpoints(wanted: spec.Spec) -> dict[str, spec.Endpoint]:
    return {endpoint.name: endpoint for endpoint in (*wanted.repository, *wanted.endpoints)}
