"""Routes of jobs: what long work was asked for, and what came of it.

Joined by `app.py`. Must never start one whose command the controller does not know: each is asked for by its own route.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from windlass import errors
from windlass.api import access, routes
from windlass.api import plane as planes
from windlass.records import jobs
from windlass.types import refs


class Listing(msgspec.Struct, frozen=True):
    """Jobs of a kind and in a state (empty: of any), below the id `after` (0: from the newest)."""

    kind: str = ""
    state: Literal["", "QUEUED", "RUNNING", "DONE", "FAILED"] = ""
    after: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: routes.Limit = 100


def every(plane: planes.Plane, call: routes.Call) -> routes.Page[jobs.Job]:
    """Jobs, the newest first."""
    q = call.query

    def read(last: jobs.Job | None) -> tuple[jobs.Job, ...]:
        before = q.after if last is None else last.id
        with plane.rows.read() as connection:
            return jobs.every(connection, state=q.state, kind=q.kind, before=before, limit=q.limit)

    return routes.page(read, lambda job: _sees(call.caller, job), lambda job: str(job.id), q.limit)


def get(plane: planes.Plane, call: routes.Call) -> jobs.Job:
    """A job: its state, and its result when it has ended."""
    with plane.rows.read() as connection:
        found = jobs.get(connection, int(call.path["id"]))
    if not _sees(call.caller, found):
        raise errors.NotFound(f"there is no job {found.id}.")
    return found


def _sees(caller: access.Caller, job: jobs.Job) -> bool:
    """Whether the job is about a model that the caller may see; one about no model is for those who see all."""
    ref = str(job.arguments.get("ref", ""))
    return not caller.restricted or (bool(ref) and caller.sees(refs.parse(ref).name))


ROUTES = (
    routes.Route("GET", "/jobs", "job:read", every, routes.Page[jobs.Job], query=Listing),
    routes.Route("GET", "/jobs/{id}", "job:read", get, jobs.Job),
)
