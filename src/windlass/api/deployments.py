"""Routes of deployments and their rollouts: wishes and orders in, what was decided and why out.

Joined by `app.py`; what a wish means is decided in `desired/`. Must never show a deployment that runs a model which the
caller may not see.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from windlass.api import plane as planes
from windlass.api import routes
from windlass.desired import history, previews, wishes
from windlass.records import deployments as stored
from windlass.records import rollouts
from windlass.types import refs


class Listing(msgspec.Struct, frozen=True):
    """Deployments whose name holds `search`, after the name `after`."""

    search: str = ""
    after: str = ""
    limit: routes.Limit = 100


class Why(msgspec.Struct, frozen=True):
    """`reason` goes on record."""

    reason: routes.Reason = ""


class Deploy(msgspec.Struct, frozen=True):
    """`force`, with a reason, passes over status, evidence and contract; `again` tries a release anew."""

    reason: routes.Reason = ""
    force: bool = False
    again: bool = False


class Assumed(msgspec.Struct, frozen=True):
    """Requests a second, and the share of bad events; where they are not given, those of the last rollout."""

    rate: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    bad: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class Moment(msgspec.Struct, frozen=True):
    """`at`: seconds since the epoch."""

    at: Annotated[float, msgspec.Meta(ge=0, le=1e11)]


class Back(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to go back to; `ref` empty: to what was live before."""

    ref: str = ""
    reason: routes.Reason = ""
    force: bool = False


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A person's word about the rollout under way."""

    what: Literal["pause", "resume", "promote", "abort"]
    reason: routes.Reason = ""


def every(plane: planes.Plane, call: routes.Call) -> routes.Page[stored.Deployment]:
    """Deployments by name."""
    q = call.query

    def read(last: stored.Deployment | None) -> tuple[stored.Deployment, ...]:
        after = q.after if last is None else last.name
        return plane.deployments.every(search=q.search, after=after, limit=routes.MAX_LIMIT)

    return routes.page(
        read,
        lambda row: call.caller.sees(*_names(row)),
        lambda row: row.name,
        q.limit,
        size=routes.MAX_LIMIT,
        hides=True,
    )


def get(plane: planes.Plane, call: routes.Call) -> routes.Tagged:
    """A deployment: what is wanted, who wanted it, and what the controller saw last."""
    return _tagged(visible(plane, call))


def put(plane: planes.Plane, call: routes.Call) -> routes.Tagged:
    """Want a release, if the deployment is still at the generation of If-Match; the same wish changes nothing."""
    wish = _wish(call)
    _check_there(plane, call)
    done = plane.deployments.deploy(
        wish,
        actor=call.caller.actor,
        reason=call.query.reason,
        expected_generation=call.expected,
        force=call.query.force,
        again=call.query.again,
        idempotency_key=call.idempotency_key,
    )
    return _tagged(done)


def delete(plane: planes.Plane, call: routes.Call) -> routes.Tagged:
    """Want a deployment no more; the answer is what it was."""
    visible(plane, call)
    return _tagged(
        plane.deployments.remove(
            call.path["name"],
            actor=call.caller.actor,
            reason=call.query.reason,
            expected_generation=call.expected,
            idempotency_key=call.idempotency_key,
        )
    )


def preview(plane: planes.Plane, call: routes.Call) -> previews.Preview:
    """What a wish would do: what changes, the steps, the expected time to a verdict. Changes nothing."""
    wish = _wish(call)
    _check_there(plane, call)
    return plane.deployments.preview(wish, rate=call.query.rate, bad=call.query.bad)


def back(plane: planes.Plane, call: routes.Call) -> routes.Tagged:
    """Go back to what was live before, or to another release that was."""
    visible(plane, call)
    wish: Back = call.body
    if wish.ref:
        call.caller.check(refs.parse(wish.ref).name)
    elif call.caller.restricted:
        call.caller.check(*(one.name for one in plane.deployments.been(call.path["name"])))
    done = plane.deployments.rollback(
        call.path["name"],
        ref=wish.ref,
        actor=call.caller.actor,
        reason=wish.reason,
        expected_generation=call.expected,
        force=wish.force,
        idempotency_key=call.idempotency_key,
    )
    return _tagged(done)


def order(plane: planes.Plane, call: routes.Call) -> routes.Tagged:
    """Pause, resume, promote or abort the rollout under way."""
    visible(plane, call)
    done = plane.deployments.order(
        call.path["name"],
        call.body.what,
        actor=call.caller.actor,
        reason=call.body.reason,
        expected_generation=call.expected,
        idempotency_key=call.idempotency_key,
    )
    return _tagged(done)


def live(plane: planes.Plane, call: routes.Call) -> history.Live:
    """What was live at a moment, who moved it there, and why."""
    visible(plane, call)
    found: history.Live = plane.deployments.live_at(call.path["name"], call.query.at)
    call.caller.check(*(one.name for one in (found.release, found.under_way) if one is not None))
    return found


def rollouts_of(plane: planes.Plane, call: routes.Call) -> routes.Page[rollouts.Rollout]:
    """Every rollout of a deployment, the oldest first."""
    visible(plane, call)
    found = plane.deployments.rollouts(call.path["name"])
    return routes.Page(tuple(one for one in found if call.caller.sees(*_moved(one))))


def rollout(plane: planes.Plane, call: routes.Call) -> rollouts.Rollout:
    """A rollout: from where to where, how far it is, and the verdict in words."""
    found: rollouts.Rollout = plane.deployments.rollout(int(call.path["id"]))
    call.caller.check(*_moved(found))
    return found


def steps(plane: planes.Plane, call: routes.Call) -> routes.Page[rollouts.Step]:
    """The steps of a rollout with their counts and evidence, the first one first."""
    rollout(plane, call)
    return routes.Page(plane.deployments.steps(int(call.path["id"])))


def _wish(call: routes.Call) -> wishes.Wish:
    """The wish, whose name is the path's and whose models the caller sees."""
    wish: wishes.Wish = call.body
    if wish.name != call.path["name"]:
        raise routes.mismatch("name", wish.name, call.path["name"])
    wishes.check(wish)
    call.caller.check(*(refs.parse(text).name for text in (wish.ref, *wish.against)))
    return wish


def _check_there(plane: planes.Plane, call: routes.Call) -> None:
    """`NotFound` if the name is taken by a deployment that the caller may not see."""
    with plane.rows.read() as connection:
        found = stored.get(connection, call.path["name"])
    if found is not None:
        call.caller.check(*_names(found))


def visible(plane: planes.Plane, call: routes.Call) -> stored.Deployment:
    """The deployment that the path names; `NotFound` too if it runs a model that the caller may not see."""
    found: stored.Deployment = plane.deployments.get(call.path["name"])
    call.caller.check(*_names(found))
    return found


def _names(one: stored.Deployment) -> tuple[str, ...]:
    desired, live = one.desired, one.status.live
    releases = (desired.release, *desired.against, *(() if live is None else (live,)))
    return (one.name, *(release.name for release in releases))


def _moved(one: rollouts.Rollout) -> tuple[str, ...]:
    releases = (one.new, *one.against, *(() if one.old is None else (one.old,)))
    return (one.deployment, *(release.name for release in releases))


def _tagged(one: stored.Deployment) -> routes.Tagged:
    return routes.Tagged(one, one.generation)


_DEPLOYMENT = "/deployments/{name}"
_ROLLOUT = "/rollouts/{id}"
_ONE = stored.Deployment
ROUTES = (
    routes.Route("GET", "/deployments", "deploy:read", every, routes.Page[stored.Deployment], query=Listing),
    routes.Route("GET", _DEPLOYMENT, "deploy:read", get, _ONE, tagged=True),
    routes.Route("PUT", _DEPLOYMENT, "deploy:write", put, _ONE, body=wishes.Wish, query=Deploy, tagged=True),
    routes.Route("DELETE", _DEPLOYMENT, "deploy:write", delete, _ONE, query=Why, tagged=True),
    routes.Route(
        "POST", f"{_DEPLOYMENT}/preview", "deploy:read", preview, previews.Preview, body=wishes.Wish, query=Assumed
    ),
    routes.Route("POST", f"{_DEPLOYMENT}/rollback", "deploy:order", back, _ONE, body=Back, tagged=True),
    routes.Route("POST", f"{_DEPLOYMENT}/orders", "deploy:order", order, _ONE, body=Order, tagged=True),
    routes.Route("GET", f"{_DEPLOYMENT}/live", "deploy:read", live, history.Live, query=Moment),
    routes.Route("GET", f"{_DEPLOYMENT}/rollouts", "deploy:read", rollouts_of, routes.Page[rollouts.Rollout]),
    routes.Route("GET", _ROLLOUT, "deploy:read", rollout, rollouts.Rollout),
    routes.Route("GET", f"{_ROLLOUT}/steps", "deploy:read", steps, routes.Page[rollouts.Step]),
)
