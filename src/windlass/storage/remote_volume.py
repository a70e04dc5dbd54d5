"""The store's bytes anywhere fsspec reaches: memory, or an object store.

Made by `blobs.py` for roots with a scheme other than `file`. A put to an object store is atomic and durable when it
returns. Must never list to decide whether a key exists: listings may lag behind writes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

from windlass import errors
from windlass.storage import volume

P = ParamSpec("P")
T = TypeVar("T")


def _reached(method: Callable[P, T]) -> Callable[P, T]:
    """Turn what the network or the service says into `Unavailable`."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except OSError as e:
            raise errors.Unavailable(f"The blob store does not answer ({type(e).__name__}).") from e

    return call


class RemoteVolume:
    """A `Volume` below an fsspec URL."""

    read_only = ""

    def __init__(self, url: str) -> None:
        # Imported here: a server whose blobs lie on its own disk does not need it.
        import fsspec

        try:
            files, root = fsspec.core.url_to_fs(url)
        except ImportError as e:
            raise errors.Unsupported(
                f"Stores of the scheme '{url.partition(':')[0]}' need a library that is not installed: {e}."
            ) from None
        except ValueError as e:
            raise errors.UsageError(f"'{url[:200]}' is no place for a blob store: {e}.") from None
        self._files: Any = files
        self._root = str(root).rstrip("/")

    @_reached
    def create(self, key: str, chunks: Iterable[volume.Buffer]) -> None:
        """Write a key; an upload that fails is removed again."""
        path = f"{self._root}/{key}"
        if self._files.exists(path):
            return
        try:
            with self._files.open(path, "wb") as file:
                for chunk in chunks:
                    file.write(bytes(chunk))
        except BaseException:
            # What a failed upload may have left would be found broken by its digest; it need not come to that.
            with contextlib.suppress(OSError):
                self._files.rm_file(path)
            raise

    def confirm(self, key: str) -> None:
        """Nothing to do: a key that can be read is durable."""

    @_reached
    def read(self, key: str, size: int | None) -> volume.Buffer | None:
        """All bytes of a key; one byte more than `size` shows that it is another size."""
        try:
            data = self._files.cat_file(f"{self._root}/{key}", start=0, end=None if size is None else size + 1)
        except FileNotFoundError:
            return None
        return bytes(data)

    @_reached
    def size(self, key: str) -> int | None:
        """The size of a key in bytes, or None."""
        try:
            return int(self._files.size(f"{self._root}/{key}"))
        except FileNotFoundError:
            return None

    @_reached
    def move(self, key: str, target: str) -> bool:
        """Copy a key, then remove it; False if there is none."""
        if self.size(key) is None:
            return False
        self._files.makedirs(f"{self._root}/{target}".rpartition("/")[0], exist_ok=True)
        self._files.mv(f"{self._root}/{key}", f"{self._root}/{target}")
        return True

    @_reached
    def remove(self, key: str) -> bool:
        """Remove a key; False if there is none."""
        try:
            self._files.rm_file(f"{self._root}/{key}")
        except FileNotFoundError:
            return False
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key below a prefix, in order."""
        for path in sorted(self._files.find(f"{self._root}/{prefix}")):
            yield str(path)[len(self._root) + 1 :]

    def sweep(self) -> None:
        """Nothing to do: there are no temporary keys."""
