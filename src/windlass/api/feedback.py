"""Routes of feedback: how good answers turned out to be.

Joined by `app.py`. Must never take a score for a deployment that the caller may not see.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from windlass.api import deployments, routes
from windlass.api import plane as planes
from windlass.records import feedback

# 10,000 scores with their requests and labels.
_MAX_BODY = 1 << 24


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores from 0 to 1, each of a request or of a sticky key. What is there already changes nothing."""

    items: Annotated[tuple[feedback.Given, ...], msgspec.Meta(min_length=1, max_length=feedback.MOST)]


def add(plane: planes.Plane, call: routes.Call) -> feedback.Added:
    """Put a batch of scores on record."""
    deployments.visible(plane, call)
    return plane.deployments.take_feedback(call.path["name"], call.body.items)


def get(plane: planes.Plane, call: routes.Call) -> feedback.Standing:
    """How many scores a deployment has, to which arms they belong, and their means."""
    deployments.visible(plane, call)
    return plane.deployments.feedback(call.path["name"])


_PATH = "/deployments/{name}/feedback"
ROUTES = (
    routes.Route("POST", _PATH, "feedback:write", add, feedback.Added, body=Batch, max_body=_MAX_BODY),
    routes.Route("GET", _PATH, "deploy:read", get, feedback.Standing),
)
