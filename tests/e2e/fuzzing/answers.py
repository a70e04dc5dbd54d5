"""What an answer may be, whatever was asked: its status, its shape, its request id, and nothing internal in it.

Used by the other files of this folder. Must never take an answer of a kind that it does not know for a good one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable

# What a refusal may be over HTTP. 500 is for faults of ours, so that fuzzing may not find any.
REFUSALS = {400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 429, 431, 501, 503}
# Of gRPC: all but unknown (2), already exists (6), out of range (11), internal (13) and data loss (15).
GRPC = {0, 1, 3, 4, 5, 7, 8, 9, 10, 12, 14, 16}
UNAVAILABLE, GRPC_UNAVAILABLE = 503, 14
# The reasons for which a server may be unavailable; any other is a fault in disguise.
NAMED = re.compile(
    r"queue is too long|deadline passed|in flight as it may|as many bytes of unanswered|is loading|failed to load"
    r"|shutting down|is stopping|process ended and is started again|watch this server as may|has no room|per second"
    r"|is not ready"
)
INTERNAL = re.compile(
    r"Traceback|File \"|/usr/|/tmp/|/work|/home/|/root|/proc/|\.py\b|site-packages|0x[0-9a-f]{6}|windlass\.[a-z]+\."
    r"|msgspec|numpy|uvloop|asyncio|httptools|protobuf\.|(?:Key|Attribute|Type|Value|Index|Assertion|Runtime)Error"
    r"|object at|NoneType|dtype\(|unexpected$"
)
_ID = re.compile(r"[!-~]{1,128}")
_PLAIN = {"code", "message", "hint", "request_id"}


class Account:
    """What was seen, and up to twenty answers that may not be."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.violations: list[str] = []

    def note(self, what: str, problem: str | None, asked: object) -> None:
        """One answer: counted as `what`; a problem is kept with what was asked."""
        self.seen[what] += 1
        if problem and len(self.violations) < 20:
            self.violations.append(f"{problem} | asked: {str(asked)[:700]}")


def leaks(text: str) -> str | None:
    """What is internal in a text."""
    found = INTERNAL.search(text)
    return None if found is None else f"tells '{text[max(0, found.start() - 60) : found.end() + 60]}'"


def http(status: int, headers: dict[str, str], body: bytes, path: str, *, head: bool = False) -> str | None:
    """What is wrong with an answer over HTTP; None if nothing is."""
    if not _ID.fullmatch(headers.get("x-request-id", "")):
        return f"{status} without a request id"
    if status == 200:
        return None
    text = body.decode("utf-8", "replace")
    if status not in REFUSALS:
        return f"status {status}: {text[:200]}"
    if status == UNAVAILABLE and path.endswith("/ready"):
        return leaks(text)
    if status in (429, UNAVAILABLE) and not headers.get("retry-after", "").isdigit():
        return f"{status} without retry-after: {text[:200]}"
    if head:
        return None
    if status == UNAVAILABLE and not NAMED.search(text):
        return f"503 without a named reason: {text[:200]}"
    if headers.get("content-encoding"):
        return None
    return leaks(text) or _shape(text, path)


def _shape(text: str, path: str) -> str | None:
    if path.endswith(("/ready", "/live", "/healthz")) and not text:
        return None
    try:
        document = json.loads(text)
    except ValueError:
        return f"is no JSON: {text[:200]}"
    told = document.get("error") if isinstance(document, dict) else None
    if path.startswith(("/v1/", "/v2/")):
        return None if isinstance(told, str) and told else f"has not the protocol's shape: {text[:200]}"
    good = isinstance(told, str) or (isinstance(told, dict) and set(told) <= _PLAIN and told.get("message"))
    return None if good else f"has not the protocol's shape: {text[:200]}"


def grpc(status: int, headers: dict[str, str], trailers: dict[str, str], messages: Iterable[bytes]) -> str | None:
    """What is wrong with an answer over gRPC; None if nothing is."""
    if status != 200:
        return None if status == 415 else f"HTTP status {status} in a gRPC call"
    if not _ID.fullmatch(headers.get("x-request-id", "")):
        return "no request id"
    number = trailers.get("grpc-status", "")
    if not number.isdigit() or int(number) not in GRPC:
        return f"grpc-status '{number}': {trailers.get('grpc-message', '')[:200]}"
    told = trailers.get("grpc-message", "")
    if int(number) and not told:
        return f"grpc-status {number} without a word"
    if int(number) == GRPC_UNAVAILABLE and not NAMED.search(told):
        return f"unavailable without a named reason: {told[:200]}"
    for message in messages:
        if message.startswith(b"\x0a") and (found := leaks(message[:600].decode("latin-1"))):
            return found
    return leaks(told)
