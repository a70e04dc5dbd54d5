"""The deployments behind a control plane, with the methods and values of `desired.deployments.Deployments`.

Opened by the CLI where a server is given. Must never decide what the plane decides: it asks, and tells the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from windlass.client import plane
from windlass.desired import deployments as desired
from windlass.desired import history, previews, wishes
from windlass.records import deployments
from windlass.records import feedback as feedback_rows
from windlass.records import rollouts as rollout_rows
from windlass.types import refs


class Deployments:
    """The deployments of one control plane. `actor` is not sent: the plane knows whose key it is."""

    def __init__(self, to: plane.Plane) -> None:
        self._plane = to

    def close(self) -> None:
        """Close the connections."""
        self._plane.close()

    def deploy(
        self,
        wish: wishes.Wish,
        *,
        actor: str,
        reason: str = "",
        expected_generation: int | None = None,
        force: bool = False,
        again: bool = False,
        idempotency_key: str = "",
    ) -> deployments.Deployment:
        """Have a wish carried out; the same wish again changes nothing."""
        return self._plane.send(
            "PUT",
            _at(wish.name),
            deployments.Deployment,
            wish,
            expected=expected_generation,
            idempotency_key=idempotency_key,
            reason=reason,
            force=force,
            again=again,
        )

    def rollback(
        self,
        name: str,
        *,
        ref: str = "",
        actor: str,
        reason: str = "",
        expected_generation: int | None = None,
        force: bool = False,
        idempotency_key: str = "",
    ) -> deployments.Deployment:
        """Back to the release before the live one, or to another that was live."""
        body = {"ref": ref, "reason": reason, "force": force}
        return self._plane.send(
            "POST",
            f"{_at(name)}/rollback",
            deployments.Deployment,
            body,
            expected=expected_generation,
            idempotency_key=idempotency_key,
        )

    def order(
        self,
        name: str,
        what: desired.Order,
        *,
        actor: str,
        reason: str = "",
        expected_generation: int | None = None,
        idempotency_key: str = "",
    ) -> deployments.Deployment:
        """A person's word about the rollout under way."""
        body = {"what": what, "reason": reason}
        return self._plane.send(
            "POST",
            f"{_at(name)}/orders",
            deployments.Deployment,
            body,
            expected=expected_generation,
            idempotency_key=idempotency_key,
        )

    def get(self, name: str) -> deployments.Deployment:
        """One deployment; `NotFound` if there is none, or the caller may not see it."""
        return self._plane.get(_at(name), deployments.Deployment)

    def every(self, *, search: str = "", after: str = "", limit: int = 100) -> tuple[deployments.Deployment, ...]:
        """Every deployment that the caller may see, by name."""
        return self._plane.every("/deployments", deployments.Deployment, search=search, after=after, limit=limit)

    def remove(
        self,
        name: str,
        *,
        actor: str,
        reason: str = "",
        expected_generation: int | None = None,
        idempotency_key: str = "",
    ) -> deployments.Deployment:
        """Run it no more."""
        return self._plane.send(
            "DELETE",
            _at(name),
            deployments.Deployment,
            expected=expected_generation,
            idempotency_key=idempotency_key,
            reason=reason,
        )

    def rollouts(self, name: str) -> tuple[rollout_rows.Rollout, ...]:
        """Every rollout of a deployment."""
        return self._plane.every(f"{_at(name)}/rollouts", rollout_rows.Rollout)

    def rollout(self, identity: int) -> rollout_rows.Rollout:
        """One rollout."""
        return self._plane.get(f"/rollouts/{identity}", rollout_rows.Rollout)

    def steps(self, identity: int) -> tuple[rollout_rows.Step, ...]:
        """What a rollout did, the first step first."""
        return self._plane.every(f"/rollouts/{identity}/steps", rollout_rows.Step)

    def preview(self, wish: wishes.Wish, *, rate: float = 0.0, bad: float | None = None) -> previews.Preview:
        """What a wish would do, under this many requests a second, of which this part is bad."""
        return self._plane.send("POST", f"{_at(wish.name)}/preview", previews.Preview, wish, rate=rate or None, bad=bad)

    def live_at(self, name: str, moment: float) -> history.Live:
        """What answered at a moment, who moved it there, and why."""
        return self._plane.get(f"{_at(name)}/live", history.Live, at=moment)

    def take_feedback(self, name: str, given: Sequence[feedback_rows.Given]) -> feedback_rows.Added:
        """Put scores on record; given again they change nothing."""
        return self._plane.send("POST", f"{_at(name)}/feedback", feedback_rows.Added, {"items": given})

    def feedback(self, name: str) -> feedback_rows.Standing:
        """What is known of a deployment's feedback."""
        return self._plane.get(f"{_at(name)}/feedback", feedback_rows.Standing)


def _at(name: str) -> str:
    return f"/deployments/{plane.quoted(refs.check_name(name))}"
