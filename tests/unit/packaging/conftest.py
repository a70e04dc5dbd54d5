"""A small package with its bytes in memory, and a place with something worth reaching beside the package.

Used by the unit tests of packages that are hostile or were changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from windlass.packaging import archive
from windlass.storage import blobs
from windlass.types import manifest, signature

MODEL, GOLDEN = b"the model's bytes" * 20, b"golden"


@pytest.fixture(scope="session")
def toy_package() -> archive.Package:
    """One model file and one golden file, each of a few bytes."""
    model, golden = (manifest.BlobRef(blobs.digest_of(data), len(data)) for data in (MODEL, GOLDEN))
    x, y = (signature.TensorSpec(name, "FP32", ("batch",)) for name in "xy")
    value = manifest.Manifest(
        name="toy",
        kind="model",
        signature=signature.Signature((x,), (y,)),
        model=manifest.ModelSpec("echo", {"echo.json": model}),
        golden=manifest.Golden(golden, golden, 0.0, 0.0),
    )
    return archive.in_memory(value, {model.digest: MODEL, golden.digest: GOLDEN})


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with a secret that has the model's bytes, and `in` for the package."""
    (tmp_path / "secret").write_bytes(MODEL)
    (tmp_path / "in").mkdir()
    return tmp_path


@pytest.fixture(scope="session")
def read_whole() -> Callable[[Path], archive.Package]:
    """Opens a package and reads every file of it."""

    def read(path: Path) -> archive.Package:
        opened = archive.open_path(path)
        for _ in opened.entries():
            pass
        return opened

    return read
