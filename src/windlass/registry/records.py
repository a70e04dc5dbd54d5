"""Records: a copy of each version's row beside the blobs, from which a lost database is rebuilt.

Written by the registry after each commit and before it acknowledges; read by `rebuild` only. They lie in a store of
their own, so that no package can forge one. Must never be read to answer a question that the database can answer.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from windlass import errors
from windlass.registry import versions
from windlass.storage import blobs
from windlass.types import refs, strict_json

FOLDER = "records"


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What cannot be told from a manifest: the number, the status, who and when."""

    name: str
    version: int
    digest: str
    status: versions.Status
    reason: str
    generation: int
    actor: str
    description: str
    created_at: float


class Records:
    """The records in a store that holds nothing else."""

    def __init__(self, store: blobs.BlobStore) -> None:
        self._store = store

    @classmethod
    def below(cls, store_root: str) -> Records:
        """The records of the registry whose blobs lie below this path or URL."""
        return cls(blobs.BlobStore(f"{store_root}/{FOLDER}"))

    def check_writable(self) -> None:
        """`StoreReadOnly` if a record could not be made durable before."""
        if self._store.read_only:
            raise errors.StoreReadOnly(
                f"the store of records is read-only since {self._store.read_only}: nothing was changed.",
                hint="Check the disk, then restart.",
            )

    def write(self, version: versions.Version) -> None:
        """Write a version's record. Writing it again changes nothing."""
        self._store.put(_encode(version))

    def replace(self, old: versions.Version, new: versions.Version) -> None:
        """Write a version's record, then drop the one before; if a crash leaves both, the newer generation counts."""
        self.write(new)
        self._store.delete(blobs.digest_of(_encode(old)))

    def latest(self) -> Iterator[Record]:
        """The newest record of every version, by model and number; a broken one is passed over."""
        found: dict[tuple[str, int], Record] = {}
        for digest in list(self._store.digests()):
            try:
                record = strict_json.decode(bytes(self._store.read(digest)), Record, what="a record")
                refs.check_name(record.name)
            except (errors.CorruptPackage, errors.InvalidInput):
                continue
            known = found.get((record.name, record.version))
            if known is None or known.generation < record.generation:
                found[record.name, record.version] = record
        for key in sorted(found):
            yield found[key]


def _encode(version: versions.Version) -> bytes:
    fields = msgspec.structs.asdict(version)
    return strict_json.canonical(Record(**{name: fields[name] for name in Record.__struct_fields__}))
