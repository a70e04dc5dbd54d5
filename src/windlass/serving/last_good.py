"""What a fleet must not forget when its supervisor ends: the last good spec, and which specs crashed their workers.

Kept in the spec's state folder, in one file that is replaced whole. Must never be needed to start: without it, or
where it cannot be read, a server begins with what it is given.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import msgspec

from windlass import errors
from windlass.types import spec, strict_json

log = logging.getLogger("windlass")
_FILE = "last_good.json"
_MOST_BAD = 64


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`good` is the spec to go back to; `bad` says why, by the digest of a spec's endpoints."""

    good: spec.Spec | None = None
    bad: dict[str, str] = {}


class LastGood:
    """The record of one fleet, in memory and, with a folder, on the disk."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder) / _FILE if folder else None
        self._record = Record()
        if self._path is not None and self._path.exists():
            try:
                self._record = strict_json.decode(self._path.read_bytes(), Record, what=_FILE)
            except (errors.InvalidInput, OSError) as e:
                log.warning("%s cannot be read and is begun anew: %s", self._path, e)

    @property
    def good(self) -> spec.Spec | None:
        """The spec to go back to."""
        return self._record.good

    def why_bad(self, wanted: spec.Spec) -> str:
        """Why a spec's endpoints are not served again; empty if they may be."""
        return self._record.bad.get(_digest(wanted), "")

    def keep(self, good: spec.Spec) -> None:
        """This is the spec to go back to from now on."""
        self._write(Record(good, self._record.bad))

    def blame(self, bad: spec.Spec, why: str) -> None:
        """These endpoints are not served again."""
        known = dict(list(self._record.bad.items())[-_MOST_BAD + 1 :])
        self._write(Record(self._record.good, {**known, _digest(bad): why}))

    def _write(self, record: Record) -> None:
        if record == self._record:
            return
        self._record = record
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._path.with_suffix(".new")
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(strict_json.canonical(record))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as e:
            log.warning("the last good spec cannot be kept in %s: %s", self._path, e.strerror)


def _digest(wanted: spec.Spec) -> str:
    return hashlib.sha256(strict_json.canonical(wanted.endpoints)).hexdigest()
