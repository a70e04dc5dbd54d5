"""Routes of API keys: made, listed, rotated, revoked.

Joined by `app.py`. Must never give, by making or by rotating a key, what the caller's own key does not have, nor tell a
secret twice.
"""

from __future__ import annotations

import msgspec

from windlass import errors
from windlass.api import access, routes
from windlass.api import plane as planes
from windlass.records import keys


class Why(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`reason` goes on record."""

    reason: routes.Reason = ""


def every(plane: planes.Plane, call: routes.Call) -> routes.Page[keys.Listed]:
    """Every key that the caller may know of, revoked ones too, the oldest first. No secrets."""
    return routes.Page(tuple(key for key in plane.keys.every() if _sees(call.caller, key)))


def create(plane: planes.Plane, call: routes.Call) -> keys.Made:
    """A new key. Its text is in this answer and nowhere else; a lost reply is mended by revoking and making anew."""
    wish: keys.Wish = call.body
    access.check_gift(call.caller, wish)
    return plane.keys.create(wish, actor=call.caller.actor)


def rotate(plane: planes.Plane, call: routes.Call) -> keys.Made:
    """A second secret for a key, told only here; the one it had stays good until `end-old`."""
    _own(plane, call)
    return plane.keys.rotate(call.path["key"], actor=call.caller.actor)


def end_old(plane: planes.Plane, call: routes.Call) -> keys.Listed:
    """Only the newest secret of a key is good from now on."""
    _own(plane, call)
    plane.keys.end_old(call.path["key"], actor=call.caller.actor)
    return _get(plane, call)


def revoke(plane: planes.Plane, call: routes.Call) -> keys.Listed:
    """End a key, here at once. Revoking it again changes nothing."""
    _own(plane, call)
    plane.keys.revoke(call.path["key"], actor=call.caller.actor, reason=call.body.reason)
    return _get(plane, call)


def _get(plane: planes.Plane, call: routes.Call) -> keys.Listed:
    found: keys.Listed = plane.keys.get(call.path["key"])
    if not _sees(call.caller, found):
        raise errors.NotFound(f"There is no key '{found.id}'.")
    return found


def _own(plane: planes.Plane, call: routes.Call) -> None:
    """`NotAllowed` for a key that may more than the caller's: its new secret would be the caller's, or its end."""
    found = _get(plane, call)
    if found.id != call.caller.id:
        access.check_gift(call.caller, found)


def _sees(caller: access.Caller, key: keys.Listed) -> bool:
    return all(access.covers(caller.models, glob) for glob in key.models)


_KEY = "/keys/{key}"
ROUTES = (
    routes.Route("GET", "/keys", "key:read", every, routes.Page[keys.Listed]),
    routes.Route("POST", "/keys", "key:write", create, keys.Made, body=keys.Wish, status=201),
    routes.Route("POST", f"{_KEY}/rotate", "key:write", rotate, keys.Made),
    routes.Route("POST", f"{_KEY}/end-old", "key:write", end_old, keys.Listed),
    routes.Route("POST", f"{_KEY}/revoke", "key:write", revoke, keys.Listed, body=Why),
)
