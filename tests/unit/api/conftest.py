"""What the API's tests share: a home in memory, its application asked in process, keys, and packages to upload."""

from __future__ import annotations

import functools
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette import testclient

from windlass import settings
from windlass.api import access, app
from windlass.desired import deployments
from windlass.packaging import archive
from windlass.records import keys
from windlass.registry import records, registry
from windlass.storage import blobs, database
from windlass.types import evidence, manifest, signature

HOST = "http://127.0.0.1:8080"
NOW = 1_767_225_600.0


def make_package(content: str = "weights", *, parent: str = "") -> tuple[archive.Package, dict[str, bytes]]:
    """A package of three small blobs, and the bytes of all its blobs by digest, its manifest's too."""
    data: dict[str, bytes] = {}

    def blob(value: bytes) -> manifest.BlobRef:
        ref = manifest.BlobRef(blobs.digest_of(value), len(value))
        data[ref.digest] = value
        return ref

    value = manifest.Manifest(
        name="digits",
        kind="model",
        signature=signature.Signature(
            inputs=(signature.TensorSpec("x", "FP32", ("batch", 4)),),
            outputs=(signature.TensorSpec("y", "FP32", ("batch", 2)),),
        ),
        model=manifest.ModelSpec(runtime="echo", blobs={"model.bin": blob(content.encode())}),
        golden=manifest.Golden(inputs=blob(b"golden in"), outputs=blob(b"golden out"), rtol=1e-3, atol=1e-5),
        lineage=manifest.Lineage(framework="test 1.0", parent=parent),
    )
    package = archive.in_memory(value, data)
    whole = {package.digest: bytes(next(package.entries())[1]), **data}
    return package, whole


class Asked(NamedTuple):
    """One caller: its key, and the application."""

    client: testclient.TestClient
    text: str
    id: str

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        headers = {"authorization": f"Bearer {self.text}"} | more.pop("headers", {})
        if body is not None:
            more["json"] = body
        return self.client.request(method, f"/api/v1{path}", headers=headers, **more)

    def get(self, path: str, **more: Any) -> Any:
        answer = self("GET", path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def upload(self, content: str, name: str, **more: Any) -> Any:
        """Upload a package's blobs and register it."""
        package, data = make_package(content)
        for digest, value in data.items():
            put = self(
                "PUT",
                f"/blobs/sha256/{digest.removeprefix('sha256:')}",
                content=value,
                headers={"content-type": "application/octet-stream"},
            )
            assert put.status_code == 201, put.text
        return self("POST", f"/models/{name}/versions", {"digest": package.digest}, **more)


class World(NamedTuple):
    """One home behind one application."""

    plane: app.Plane
    client: testclient.TestClient

    def key(self, *scopes: str, models: tuple[str, ...] = ("*",), expires_at: float | None = None) -> Asked:
        wish = keys.Wish(secrets.token_hex(6), scopes or keys.SCOPES, models, expires_at)
        made = self.plane.keys.create(wish, actor="test")
        return Asked(self.client, made.key, made.id)

    def close(self) -> None:
        self.client.__exit__(None, None, None)
        self.plane.rows.close()

    def push(self, name: str, content: str = "weights", *, parent: str = "") -> registry.Resolved:
        """A READY version."""
        package, _ = make_package(content, parent=parent)
        passed = (evidence.Evidence(package.digest, "parity", "passed"),)
        pushed = self.plane.registry.push(package, name=name, actor="test", evidence=passed)
        return registry.Resolved(name, pushed.version, pushed.digest, pushed.status)


@functools.cache
def empty_database() -> bytes:
    """A database with all tables and no rows: to migrate one for each test would cost more than the tests."""
    with _folder() as folder:
        database.open_database(f"sqlite:///{folder / 'registry.db'}").close()
        return (folder / "registry.db").read_bytes()


def open_world(folder: Path) -> World:
    (folder / "registry.db").write_bytes(empty_database())
    rows = database.open_database(f"sqlite:///{folder / 'registry.db'}")
    clock = lambda: NOW  # noqa: E731
    store = str(folder / "blobs")
    known = registry.Registry(rows, blobs.BlobStore(store), records.Records.below(store), clock)
    plane = app.Plane(
        rows=rows,
        registry=known,
        deployments=deployments.Deployments(rows, known, clock=clock),
        keys=keys.Keys(rows, "ab" * 32, clock),
        settings=settings.Settings(home=folder),
        clock=clock,
    )
    client = testclient.TestClient(app.create(plane), base_url=HOST, raise_server_exceptions=False)
    # Entered, it keeps one event loop for all its requests.
    return World(plane, client.__enter__())


@pytest.fixture
def world() -> Iterator[World]:
    """A fresh home; in memory where there is such a folder, as fsync is free there."""
    with _folder() as folder:
        opened = open_world(folder)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def shared_world() -> Iterator[World]:
    """A home that the tests of one file share."""
    with _folder() as folder:
        opened = open_world(folder)
        yield opened
        opened.close()


class _folder:
    def __enter__(self) -> Path:
        shared = Path("/dev/shm")
        self.path = Path(tempfile.mkdtemp(prefix="windlass-api-", dir=shared if shared.is_dir() else None))
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def everything() -> tuple[str, ...]:
    return tuple(p for p in access.PERMISSIONS if p not in (access.OPEN, access.ANY_KEY))
