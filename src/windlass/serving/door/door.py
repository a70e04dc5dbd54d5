"""The door: decides on a request when its headers are complete, before a byte of its body is kept.

Every route of every protocol passes it, metadata and repository control included. Asked by each connection; one per
listener. Must never let a route through that declares no permission, remember a refusal, or tell a caller more about
a model it may not see than about one that does not exist.
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable, Mapping

import msgspec

from windlass import errors
from windlass.protocols import base
from windlass.security import keys
from windlass.serving.door import heads, identity, limits, routes, visible
from windlass.types import directory, refs, spec

_LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]", "::1")
_REMEMBERED = 4_096
_HEALTH_BYTES = 1_024
_MODELS_A_PERMIT = 64
# In place of a generation: the permit of a message that names its model itself.
_MESSAGE = -1
# The HMAC of no key.
_NOBODY = "0" * 64
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#\[]*|\[[^]]*\][^/?#]*)(?:[/?#]|$)")
# Asks for the time that a request waited and ran, as the header x-server-timing does.
_TIMED = re.compile(r"(?:^|&)server[-_]timing(?:=(?:1|true))?(?:&|$)")


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
        trusted: identity.Identity | None,
        clock: Callable[[], float] = time.time,
        allowances: limits.Allowances | None = None,
    ) -> None:
        self.table = table
        self.limits = limits
        self.in_flight = 0
        # Bytes of bodies that came in parts, kept until their requests are answered.
        self.pending_bytes = 0
        self._models = models
        self._trusted = trusted
        self._clock = clock
        self._allowances = allowances
        self._any_host = "*" in hosts
        self._hosts = frozenset(h.lower() for h in (*hosts, *_LOOPBACK_HOSTS))
        self._known_hosts: set[bytes] = set()
        self._keys: dict[str, spec.Key] = {}
        self._pepper = b""
        self._known_callers: dict[bytes, identity.Identity] = {}
        # The number of this set of keys.
        self.epoch = 0
        self.memory = heads.Memory()

    def use_keys(self, known: tuple[spec.Key, ...], pepper: str) -> None:
        """The keys from now on; whoever was remembered is forgotten, so that a revoked key ends at once."""
        self._pepper = read_pepper(pepper)
        self._keys = {key.id: key for key in known}
        if self._allowances is not None:
            self._allowances.use(known)
        if known and self._trusted is not identity.OPERATOR:
            # A server that had keys does not open again when the last one is revoked.
            self._trusted = None
        self._known_callers = {}
        self.epoch += 1
        self.memory.forget()

    def admit(self, head: heads.RequestHead) -> heads.Permit:
        """The permit; else the error that says why not."""
        permit = head.permit
        if permit is None or head.epoch != self.epoch:
            permit = self._judge(head)
        caller = permit.caller
        if caller.expires_at is not None:
            self._check_expiry(caller)
        if permit.infer is None:
            return permit
        match = permit.match
        view = self._room(caller, match.model, match.version)
        if view is not permit.view:
            max_body = min(self.limits.max_body, view.limits.max_body)
            permit = head.permit = msgspec.structs.replace(permit, view=view, max_body=max_body, series=None, arms={})
        if head.length > permit.max_body:
            raise errors.PayloadTooLarge(f"the body has {head.length} bytes: at most {permit.max_body} are accepted")
        if caller.allowance is not None:
            caller.allowance.take()
        return permit

    def enter(self, permit: heads.Permit, model: str, version: str) -> heads.Permit:
        """The permit of a message that names its model itself, on a route that was admitted."""
        self.confirm(permit)
        caller = permit.caller
        if caller.models is not None and not visible.allows(caller.models, model):
            raise visible.unknown(model)
        view = self._room(caller, model, version)
        own = permit.arms.get((model, _MESSAGE))
        if own is None or own.view is not view:
            if len(permit.arms) >= _MODELS_A_PERMIT:
                permit.arms.clear()
            action = permit.match.route.action
            infer = action.infer if isinstance(action, base.RpcInfer) else permit.infer
            own = permit.arms[model, _MESSAGE] = msgspec.structs.replace(
                permit, view=view, infer=infer, series=None, arms={}
            )
        if caller.allowance is not None:
            caller.allowance.take()
        return own

    def confirm(self, permit: heads.Permit) -> None:
        """Check that the caller may still ask what it was admitted for."""
        if permit.epoch != self.epoch:
            self.renew(permit)
        if permit.caller.expires_at is not None:
            self._check_expiry(permit.caller)

    def renew(self, permit: heads.Permit) -> None:
        """Know the caller anew where the keys changed since it was admitted: a revoked key asks nothing more."""
        permission = permit.match.permission
        if permission != "health":
            caller = self._caller(permit.head.headers)
            if permission not in caller.scopes:
                raise errors.NotAllowed(f"this key lacks the permission {permission}")
            model = permit.match.model
            if permit.view is not None:
                model = permit.view.name
                # What is under way gives back what it took, wherever the next one takes it.
                caller = msgspec.structs.replace(caller, allowance=permit.caller.allowance)
            if caller.models is not None and model and not visible.allows(caller.models, model):
                raise visible.unknown(model)
            permit.caller = caller
        permit.epoch = self.epoch
        permit.arms.clear()

    def _room(self, caller: identity.Identity, model: str, version: str) -> directory.ModelView:
        """The model, if it has room for one more request of this caller."""
        try:
            view = self._models.find(model, version)
        except errors.NotFound as e:
            seen = [state.name for state in self.models_for(caller).states()]
            raise errors.NotFound(e.message, hint=refs.nearest(model, seen)) from None
        if self.in_flight >= self.limits.max_in_flight:
            raise errors.Overloaded("the server has as many requests in flight as it may")
        if view.refuses is not None:
            refusal = view.refuses(caller.id)
            if refusal is not None:
                raise refusal
        return view

    def _judge(self, head: heads.RequestHead) -> heads.Permit:
        """What the head's bytes and the keys alone decide; kept in the head only if it may pass."""
        headers = head.headers
        host = _authority(head.target) or headers.get(b"host", b"")
        if host not in self._known_hosts:
            self._check_host(host)
        if b"origin" in headers:
            _check_origin(headers[b"origin"], host)
        try:
            match = self.table.find(head.method, head.target)
        except errors.WindlassError:
            # Who is not known is not told what there is.
            self._caller(headers)
            raise
        caller = identity.LOCAL if match.permission == "health" else self._caller(headers)
        if match.permission != "health" and match.permission not in caller.scopes:
            if caller is identity.LOCAL:
                raise errors.NotAllowed(f"this route needs the permission {match.permission}: send a key that has it")
            raise errors.NotAllowed(f"this key lacks the permission {match.permission}")
        if caller.models is not None and match.model and not visible.allows(caller.models, match.model):
            raise visible.unknown(match.model)
        action = match.route.action
        # Nobody need be known to ask for health, so nobody sends more than a gRPC message of one short name for it.
        max_body = self.limits.max_body
        if match.permission == "health":
            max_body = _HEALTH_BYTES if isinstance(action, base.RpcQuery) else 0
        if head.length > max_body:
            raise errors.PayloadTooLarge(f"the body has {head.length} bytes: at most {max_body} are accepted")
        head.epoch = self.epoch
        head.permit = heads.Permit(
            match=match,
            caller=caller,
            head=base.Head(match.route.method, match.path, match.query, headers),
            max_body=max_body,
            infer=action if isinstance(action, base.InferRoute) else None,
            encoding=headers.get(b"content-encoding", b""),
            accepts=headers.get(b"accept-encoding", b""),
            expects=headers.get(b"expect", b"").lower(),
            timed=b"x-server-timing" in headers or _TIMED.search(match.query) is not None,
            epoch=self.epoch,
        )
        return head.permit

    def models_for(self, caller: identity.Identity) -> directory.ModelDirectory:
        """The models as this caller may see them."""
        return self._models if caller.models is None else visible.Visible(self._models, caller.models)

    def _check_expiry(self, caller: identity.Identity) -> None:
        if caller.expires_at is not None and caller.expires_at <= self._clock():
            raise errors.Unauthenticated("this key is not valid")

    def _check_host(self, host: bytes) -> None:
        """Refuse names that are not ours, so that a page cannot reach this server by a name that it controls."""
        name = host.decode("latin-1").lower()
        if "," in name:
            raise errors.InvalidInput("the request names more than one host")
        bare = name.rpartition(":")[0] if name.rpartition(":")[2].isdigit() and ":" in name else name
        if not self._any_host and bare not in self._hosts:
            raise errors.Misdirected("this server does not answer for the host that was asked")
        if len(self._known_hosts) < _REMEMBERED and len(host) < 300:
            self._known_hosts.add(host)

    def _caller(self, headers: Mapping[bytes, bytes]) -> identity.Identity:
        if self._trusted is not None and not self._keys:
            return self._trusted
        credential = headers.get(b"authorization") or headers.get(b"x-api-key")
        if credential is None:
            if self._trusted is identity.OPERATOR:
                return identity.OPERATOR
            raise errors.Unauthenticated("this server asks for a key: send it as 'Authorization: Bearer wl_...'")
        return self._known_callers.get(credential) or self._check_key(credential)

    def _check_key(self, credential: bytes) -> identity.Identity:
        text = credential.decode("latin-1")
        if text[:7].lower() == "bearer ":
            text = text[7:].strip()
        parsed = keys.parse(text)
        key = self._keys.get(parsed[0]) if parsed is not None else None
        # A key that does not exist costs what a wrong one does, and the second secret what the first one does.
        found = keys.hmac_of(text, self._pepper)
        first = hmac.compare_digest(found, key.hmac if key is not None else _NOBODY)
        second = hmac.compare_digest(found, (key.second_hmac if key is not None else "") or _NOBODY)
        if key is None or not (first or second):
            raise errors.Unauthenticated("this key is not valid")
        models = None if "*" in key.models else key.models
        allowance = self._allowances.of(key) if self._allowances is not None else None
        caller = identity.Identity(key.id, frozenset(key.scopes), models, key.expires_at, allowance)
        if len(self._known_callers) >= _REMEMBERED:
            self._known_callers.clear()
        self._known_callers[credential] = caller
        return caller


def read_pepper(text: str) -> bytes:
    """The bytes of a spec's pepper; `UsageError` if it is not hexadecimal."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise errors.UsageError("the spec's key_pepper is not hexadecimal", hint="Write bytes as two digits.") from None


def _authority(target: bytes) -> bytes:
    """The host that a target in absolute form names, which then counts instead of the header (RFC 9112, 3.2.2)."""
    if target.startswith(b"/"):
        return b""
    found = _ABSOLUTE.match(target)
    return b"" if found is None else found[1]


def _check_origin(origin: bytes, host: bytes) -> None:
    """Refuse what a browser sends for another site's page."""
    if origin.partition(b"://")[2].lower() != host.lower():
        raise errors.NotAllowed("requests from another site's page are not answered")
