"""Webhooks: tells the configured places what happened, each message signed, until it is taken or a day has passed.

Run by the loop on a thread of its own; what to tell lies in the outbox. Signatures are those of Standard Webhooks:
HMAC-SHA256 over `id.timestamp.body`. Messages may come twice (with one id) and in any order. Must never ask a place
that is not configured, follow where one redirects to, or send more than the outbox holds.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import fnmatch
import hashlib
import hmac
import ipaddress
import logging
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import httpx

from windlass import errors, settings
from windlass.controller import lead, patience
from windlass.records import outbox
from windlass.types import strict_json

log = logging.getLogger(__name__)
GIVEN_UP_S = 24 * 3600.0
_TIMEOUT_S = 10.0
_AT_ONCE = 32
_FIRST_S, _LONGEST_S = 5.0, 3600.0
_BASE64 = "whsec_"
_LEAST_SECRET = 16


class Webhooks:
    """Delivers the outbox to the places that the settings name."""

    def __init__(
        self,
        leading: lead.Lead,
        places: Sequence[settings.Webhook],
        clock: Callable[[], float],
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`UsageError` for a place that is not https, unless it is on this machine; `transport` is given by tests."""
        for place in places:
            check(place.url)
        self._lead = leading
        self._places = {place.url: place for place in places}
        self._clock = clock
        # Neither proxies nor credentials from the environment: what is configured is asked, and nobody else.
        self._http = httpx.Client(
            timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False, transport=transport or httpx.HTTPTransport()
        )

    def work(self, stop: threading.Event) -> bool:
        """Try what is due, once; True if it was much, and there may be more."""
        if not self._places:
            return False
        with self._lead.write() as connection:
            due = outbox.due(connection, limit=_AT_ONCE, now=self._clock())
        for message in due:
            missing = self._told(message)
            with self._lead.write() as connection:
                now = self._clock()
                if missing and now - message.created_at < GIVEN_UP_S:
                    wait = patience.pause(message.attempts + 1, first_s=_FIRST_S, longest_s=_LONGEST_S)
                    outbox.postpone(connection, message.id, missing=missing, next_at=now + wait)
                    continue
                if missing:
                    places = ", ".join(named(url) for url in missing)
                    log.warning("event %d (%s) was not taken by %s", message.id, message.event, places)
                outbox.done(connection, message.id, now=now)
            if stop.is_set():
                break
        return len(due) == _AT_ONCE

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _told(self, message: outbox.Event) -> tuple[str, ...]:
        """Tell everybody who is still to be told; who did not take it."""
        urls: Iterable[str] = self._places if message.missing is None else message.missing
        wanted = [url for url in urls if url in self._places and _asks_for(self._places[url], message.event)]
        return tuple(url for url in wanted if not self._taken(self._places[url], message))

    def _taken(self, place: settings.Webhook, message: outbox.Event) -> bool:
        now = self._clock()
        body = strict_json.canonical(
            {
                "type": message.event,
                "timestamp": dt.datetime.fromtimestamp(message.created_at, dt.UTC).isoformat(),
                "data": message.payload,
            }
        )
        identity = f"evt_{message.id}"
        try:
            told = {
                "content-type": "application/json",
                "webhook-id": identity,
                "webhook-timestamp": str(int(now)),
                "webhook-signature": signature(secret_of(place.secret_file), identity, int(now), body),
            }
            # The body of the answer is nobody's business: it is not read.
            with self._http.stream("POST", place.url, content=body, headers=told) as answer:
                if answer.is_success:
                    return True
                log.info("%s answered %d to %s", named(place.url), answer.status_code, identity)
        except (httpx.HTTPError, OSError, errors.WindlassError) as e:
            log.info("%s was not told of %s: %s", named(place.url), identity, e)
        return False


def signature(secret: bytes, identity: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature` of a message (Standard Webhooks, version 1)."""
    signed = b".".join((identity.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def secret_of(file: Path) -> bytes:
    """The secret in a file: `whsec_` and base64, or the text itself; `UsageError` if it is too short to be one."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise errors.UsageError(f"{file} holds no text") from None
    secret = text.encode()
    if text.startswith(_BASE64):
        try:
            secret = base64.b64decode(text.removeprefix(_BASE64), validate=True)
        except binascii.Error:
            raise errors.UsageError(f"{file} holds no base64 after {_BASE64}") from None
    if len(secret) < _LEAST_SECRET:
        raise errors.UsageError(f"the secret in {file} is shorter than {_LEAST_SECRET} bytes")
    return secret


def check(url: str) -> None:
    """`UsageError` unless messages go there encrypted, or do not leave this machine."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if host and not parts.username and (parts.scheme == "https" or (parts.scheme == "http" and _is_here(host))):
        return
    raise errors.UsageError(
        f"the webhook {named(url)} is no https address.", hint="http is taken on this machine only; no user in it."
    )


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def named(url: str) -> str:
    """A place as it is logged: the path of some is a secret."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}"


def _asks_for(place: settings.Webhook, event: str) -> bool:
    return any(fnmatch.fnmatchcase(event, wanted) for wanted in place.events)
