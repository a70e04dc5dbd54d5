"""The door: decides on a request when its headers are complete, before a byte of its body is kept.

Every route of every protocol passes it, metadata and repository control included. Asked by each connection; one per
listener. Must never let a route through that declares no permission, remember a refusal, or tell a caller more about
a model it may not see than about one that does not exist.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping

import msgspec

from windlass import errors
from windlass.security import keys
from windlass.serving import routes, visible
from windlass.types import directory, refs, spec

LOCAL_SCOPES = ("model:read", "model:predict")
_LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]", "::1")
_REMEMBERED = 4_096


class Identity(msgspec.Struct, frozen=True):
    """Who asks: the key's id, or `local`; what it may do, and to which models (globs; None: to all)."""

    id: str
    scopes: frozenset[str]
    models: tuple[str, ...] | None
    expires_at: float | None


class Permit(msgspec.Struct, frozen=True):
    """What the door let through. `view` is set when the route asks a model."""

    match: routes.Match
    identity: Identity
    view: directory.ModelView | None
    max_body: int


LOCAL = Identity("local", frozenset(LOCAL_SCOPES), None, None)
OPERATOR = Identity("operator", frozenset(("model:read", "model:predict", "model:load", "admin")), None, None)


class Door:
    """The checks of one listener, in order: host, origin, route, caller, permission, model, room, size.

    `trusted` is who everybody is on a listener where reaching it is the proof (a 0600 socket, the loopback).
    """

    def __init__(
        self,
        table: routes.RouteTable,
        models: directory.ModelDirectory,
        limits: spec.ServerLimits,
        *,
        hosts: tuple[str, ...],
        trusted: Identity | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.table = table
        self.limits = limits
        self.in_flight = 0
        self._models = models
        self._trusted = trusted
        self._clock = clock
        self._any_host = "*" in hosts
        self._hosts = frozenset(h.lower() for h in (*hosts, *_LOOPBACK_HOSTS))
        self._known_hosts: set[bytes] = set()
        self._keys: dict[str, spec.Key] = {}
        self._pepper = b""
        self._known_callers: dict[bytes, Identity] = {}

    def use_keys(self, known: tuple[spec.Key, ...], pepper: str) -> None:
        """The keys from now on; whoever was remembered is forgotten, so that a revoked key ends at once."""
        self._keys = {key.id: key for key in known}
        self._pepper = bytes.fromhex(pepper)
        self._known_callers = {}

    def admit(self, method: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> Permit:
        """The permit; else the error that says why not."""
        host = headers.get(b"host", b"")
        if host not in self._known_hosts:
            self._check_host(host)
        if b"origin" in headers:
            _check_origin(headers[b"origin"], host)
        match = self.table.find(method, target)
        if match.permission == "health":
            return Permit(match, LOCAL, None, 0)
        caller = self._caller(headers)
        if match.permission not in caller.scopes:
            if caller is LOCAL:
                raise errors.NotAllowed(f"this route needs the permission {match.permission}: send a key that has it")
            raise errors.NotAllowed(f"this key lacks the permission {match.permission}")
        if caller.models is not None and match.model and not visible.allows(caller.models, match.model):
            raise visible.unknown(match.model)
        view = None
        max_body = self.limits.max_body
        if match.infers:
            view = self._find(match, caller)
            if self.in_flight >= self.limits.max_in_flight:
                raise errors.Overloaded("the server has as many requests in flight as it may")
            max_body = min(max_body, view.limits.max_body)
        length = headers.get(b"content-length")
        if length is not None and int(length) > max_body:
            raise errors.PayloadTooLarge(f"the body has {int(length)} bytes: at most {max_body} are accepted")
        return Permit(match, caller, view, max_body)

    def models_for(self, caller: Identity) -> directory.ModelDirectory:
        """The models as this caller may see them."""
        return self._models if caller.models is None else visible.Visible(self._models, caller.models)

    def _find(self, match: routes.Match, caller: Identity) -> directory.ModelView:
        try:
            return self._models.find(match.model, match.version)
        except errors.NotFound as e:
            seen = [state.name for state in self.models_for(caller).states()]
            raise errors.NotFound(e.message, hint=refs.nearest(match.model, seen)) from None

    def _check_host(self, host: bytes) -> None:
        """Refuse names that are not ours, so that a page cannot reach this server by a name that it controls."""
        name = host.decode("latin-1").lower()
        bare = name.rpartition(":")[0] if name.rpartition(":")[2].isdigit() and ":" in name else name
        if not self._any_host and bare not in self._hosts:
            raise errors.Misdirected("this server does not answer for the host that was asked")
        if len(self._known_hosts) < _REMEMBERED and len(host) < 300:
            self._known_hosts.add(host)

    def _caller(self, headers: Mapping[bytes, bytes]) -> Identity:
        if self._trusted is not None and not self._keys:
            return self._trusted
        credential = headers.get(b"authorization") or headers.get(b"x-api-key")
        if credential is None:
            if self._trusted is OPERATOR:
                return OPERATOR
            raise errors.Unauthenticated("this server asks for a key: send it as 'Authorization: Bearer wl_...'")
        identity = self._known_callers.get(credential)
        if identity is None:
            identity = self._check_key(credential)
        if identity.expires_at is not None and identity.expires_at <= self._clock():
            raise errors.Unauthenticated("this key is not valid")
        return identity

    def _check_key(self, credential: bytes) -> Identity:
        text = credential.decode("latin-1").removeprefix("Bearer ").strip()
        parsed = keys.parse(text)
        key = self._keys.get(parsed[0]) if parsed is not None else None
        # A key that does not exist costs what a wrong one does.
        expected = key.hmac if key is not None else "0" * 64
        if not hmac.compare_digest(keys.hmac_of(text, self._pepper), expected) or key is None:
            raise errors.Unauthenticated("this key is not valid")
        models = None if "*" in key.models else key.models
        identity = Identity(key.id, frozenset(key.scopes), models, key.expires_at)
        if len(self._known_callers) >= _REMEMBERED:
            self._known_callers.clear()
        self._known_callers[credential] = identity
        return identity


def _check_origin(origin: bytes, host: bytes) -> None:
    """Refuse what a browser sends for another site's page."""
    if origin.partition(b"://")[2].lower() != host.lower():
        raise errors.NotAllowed("requests from another site's page are not answered")
