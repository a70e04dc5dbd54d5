"""What holds the store's bytes under keys: the seam between `blobs.py` and a disk or an object store.

Implemented by `local_volume.py` and `remote_volume.py`, called by `blobs.py` only. Must never know what a digest is:
a key is a relative path of plain components that the blob store made itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeAlias

Buffer: TypeAlias = bytes | memoryview


class Volume(Protocol):
    """Keys and bytes. Every change is durable when the method returns."""

    @property
    def read_only(self) -> str:
        """Why nothing may be written any more; empty while writing works."""
        ...

    def create(self, key: str, chunks: Iterable[Buffer]) -> None:
        """Write a key that appears whole or not at all; one that is there already stays as it is.

        `StoreReadOnly` once a write could not be made durable, `Unavailable` when the disk is full.
        What the iterator raises is passed on, and nothing appears.
        """
        ...

    def confirm(self, key: str) -> None:
        """Make a key durable that another writer may have made a moment ago."""
        ...

    def read(self, key: str, size: int | None) -> Buffer | None:
        """All bytes of a key, or None. Of another size than `size`, they may be cut to what shows the difference."""
        ...

    def size(self, key: str) -> int | None:
        """The size of a key in bytes, or None."""
        ...

    def move(self, key: str, target: str) -> bool:
        """Rename a key, over what the target held; False if there is none."""
        ...

    def remove(self, key: str) -> bool:
        """Remove a key; False if there is none."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key below a prefix. For scrub and rebuild, never to decide whether a key exists."""
        ...

    def sweep(self) -> None:
        """Remove what writers that died left behind."""
        ...
