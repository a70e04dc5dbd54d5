"""Where a blob lies on a disk, and how its bytes are changed behind the store's back.

Used by the unit tests of the blob store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def place() -> Callable[[Path, bytes], Path]:
    """The file of a blob with these bytes, in a store at this place."""

    def find(root: Path, data: bytes) -> Path:
        name = hashlib.sha256(data).hexdigest()
        return root / "sha256" / name[:2] / name

    return find


@pytest.fixture(scope="session")
def overwrite() -> Callable[[Path, bytes], None]:
    """Puts other bytes into a file that is not to be written."""

    def put(path: Path, data: bytes) -> None:
        path.chmod(0o600)
        path.write_bytes(data)

    return put
