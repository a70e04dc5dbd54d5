"""What a study has made and measured so far, kept on disk as it goes, so that the same command goes on after Ctrl-C.

Written and read by `trials`. Must never take a torn line, or bytes that are not what their digest says, for a finding.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization import record
from windlass.storage import blobs
from windlass.types import strict_json

_LINES = "journal.jsonl"
_FORMS = "forms"
_MOST_BYTES = 1 << 24


class Entry(NamedTuple):
    """A finding (JSON), and how many seconds it took."""

    value: Any
    seconds: float


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: list[Any]
    value: Any
    seconds: float


class Journal:
    """Findings by key, and forms by digest, in a folder of one study. Close it: one process at a time holds it.

    `Conflict` if another one does. A later finding under the same key is the one that counts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = os.open(folder / _LINES, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._file = os.fdopen(opened, "r+b")
        try:
            _hold(self._file)
            self._known, whole = _read(self._file)
            # Half a line would swallow the one that is written after it.
            self._file.truncate(whole)
            self._file.seek(whole)
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: list[Any]) -> Entry | None:
        """What was found under a key, or None."""
        return self._known.get(_name(key))

    def put(self, key: list[Any], value: Any, seconds: float) -> None:
        """Keep a finding at once, so that nothing that comes after can lose it. `InvalidInput` if it holds NaN."""
        plain = record.plain(value)
        line = strict_json.canonical(_Line(key, plain, seconds)) + b"\n"
        self._file.write(line)
        self._file.flush()
        self._known[_name(key)] = Entry(plain, seconds)

    def keep(self, form: forms.Form) -> None:
        """Keep the files of a form, which `form` gives again; its network is not kept."""
        store = blobs.BlobStore(self.folder / _FORMS)
        files = {name: store.put(data).digest for name, data in form.files.items()}
        told = msgspec.structs.replace(form, files={}, network=None)
        self.put([_FORMS, form.digest], {"files": files, "form": msgspec.to_builtins(told)}, 0.0)

    def form(self, digest: str) -> forms.Form | None:
        """A form that was kept, or None where it is not whole any more."""
        found = self.get([_FORMS, digest])
        if found is None:
            return None
        store = blobs.BlobStore(self.folder / _FORMS)
        with contextlib.suppress(errors.WindlassError, msgspec.ValidationError, KeyError, TypeError):
            files = {name: bytes(store.read(blob)) for name, blob in found.value["files"].items()}
            form = msgspec.structs.replace(msgspec.convert(found.value["form"], forms.Form), files=files)
            if form.digest == digest:
                return form
        return None

    def close(self) -> None:
        """Let another process have it."""
        self._file.close()


def forget(folder: Path) -> None:
    """Remove a study's folder with all in it, once what came of it is kept elsewhere."""
    shutil.rmtree(folder, ignore_errors=True)


def _hold(file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise errors.Conflict(
            "another process is at work on the same study.", hint="Wait for it, or end it first."
        ) from None


def _read(file: BinaryIO) -> tuple[dict[str, Entry], int]:
    """The findings of whole lines, and how many bytes those are."""
    found: dict[str, Entry] = {}
    whole = 0
    for line in file:
        if not line.endswith(b"\n"):
            break
        whole += len(line)
        with contextlib.suppress(errors.InvalidInput):
            one = strict_json.decode(line[:-1], _Line, what="a line of the journal", max_bytes=_MOST_BYTES)
            found[_name(one.key)] = Entry(one.value, one.seconds)
    return found, whole


def _name(key: list[Any]) -> str:
    return hashlib.sha256(strict_json.canonical(key)).hexdigest()
