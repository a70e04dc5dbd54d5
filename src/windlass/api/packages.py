"""Routes by which packages come in and go out: blobs, the registration of what was uploaded, and its check.

Joined by `app.py`. A blob is streamed to disk and hashed on the way. Must never give out or register bytes by their
digest alone: a caller has uploaded them, or holds a version that needs them.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import msgspec
from starlette import concurrency, requests, responses

from windlass import errors, references
from windlass.api import access, routes
from windlass.api import plane as planes
from windlass.packaging import archive
from windlass.records import answers, jobs
from windlass.registry import registration, retention
from windlass.registry import versions as version_rows
from windlass.security import signing
from windlass.serving import launch
from windlass.types import manifest, refs

MAX_BLOB = 1 << 36
FOLDER = "uploads"
_BYTES = "application/octet-stream"
_CHUNK = 1 << 20


class Package(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A package whose blobs were uploaded: `digest` is its manifest's, `signature` an envelope over it or empty."""

    digest: str
    description: routes.Reason = ""
    tags: dict[str, str] = {}
    signature: str = ""


class Registered(msgspec.Struct, frozen=True):
    """The version that holds a package; NEW until the `verify` job `job` has passed (0: it is checked already)."""

    name: str
    version: int
    digest: str
    status: version_rows.Status
    created: bool
    job: int


def register(plane: planes.Plane, call: routes.Call) -> Registered:
    """Register a package as the next version of a model; the same bytes again are the same version."""
    wish: Package = call.body
    if refs.DIGEST.fullmatch(wish.digest) is None:
        raise errors.InvalidInput("'digest' is no digest.", hint="Write sha256: and 64 hexadecimal digits.")
    _check_own(plane, call.caller, [wish.digest])
    package = archive.open_store(plane.registry.store, wish.digest)
    _check_own(plane, call.caller, package.manifest.blobs())
    if wish.signature and "signature" in plane.settings.policy.require:
        # Kept as passed, which the policy then goes by: whoever can write a text could pass it.
        signing.check(wish.signature, wish.digest, launch.trusted(plane.settings.home))
    found = (references.vouched(wish.digest, wish.signature),) if wish.signature else ()
    pushed: registration.Pushed = plane.registry.push(
        package,
        name=call.path["name"],
        actor=call.caller.actor,
        evidence=found,
        description=wish.description,
        tags=wish.tags,
        idempotency_key=call.idempotency_key,
    )
    unchecked = pushed.status in ("NEW", "VERIFIED")
    job = _checking(plane, call.caller, pushed.name, pushed.version).id if unchecked else 0
    return Registered(pushed.name, pushed.version, pushed.digest, pushed.status, pushed.created, job)


def verify(plane: planes.Plane, call: routes.Call) -> jobs.Job:
    """Have a version's bytes and golden outputs checked by a job; the one that is under way already, if there is."""
    ref = refs.Ref(kind="version", name=call.path["name"], version=int(call.path["version"]))
    found = plane.registry.show(ref).version
    if found.status == "DELETED":
        raise errors.NotFound(f"{found.name}@{found.version} was deleted.")
    return _checking(plane, call.caller, found.name, found.version)


async def get(plane: planes.Plane, call: routes.Call, request: requests.Request) -> responses.Response:
    """The bytes of a blob that a version needs which the caller may see."""
    del request
    digest = f"sha256:{call.path['hex']}"
    await concurrency.run_in_threadpool(_check_held, plane, call.caller, digest)
    data = await concurrency.run_in_threadpool(plane.registry.store.read, digest)
    headers = {"content-length": str(memoryview(data).nbytes), "cache-control": "no-store"}
    return responses.StreamingResponse(_parts(memoryview(data)), 200, headers, _BYTES)


def head(plane: planes.Plane, call: routes.Call) -> responses.Response:
    """Whether the caller need not upload a blob: it did, or holds a version that needs it."""
    digest = f"sha256:{call.path['hex']}"
    _check_own(plane, call.caller, [digest])
    size = plane.registry.store.size(digest)
    if size is None:
        raise errors.NotFound(f"there is no blob {digest}.")
    return responses.Response(None, 200, {"content-length": str(size), "cache-control": "no-store"}, _BYTES)


async def put(plane: planes.Plane, call: routes.Call, request: requests.Request) -> routes.Tagged | manifest.BlobRef:
    """Upload a blob. Uploading it again changes nothing; other bytes than the digest's are refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _BYTES:
        raise errors.UnsupportedMedia("the blob is not sent as application/octet-stream.", hint="Set Content-Type.")
    digest = f"sha256:{call.path['hex']}"
    folder = plane.settings.home / FOLDER
    with await concurrency.run_in_threadpool(_spooled, folder) as file:
        hasher = hashlib.sha256()
        pending = bytearray()
        async for part in request.stream():
            pending += part
            if len(pending) >= _CHUNK:
                await concurrency.run_in_threadpool(_keep, file, hasher, bytes(pending))
                pending.clear()
        await concurrency.run_in_threadpool(_keep, file, hasher, bytes(pending))
        if f"sha256:{hasher.hexdigest()}" != digest:
            raise errors.InvalidInput(f"the bytes hash to sha256:{hasher.hexdigest()}, not to the digest in the path.")
        return await concurrency.run_in_threadpool(_store, plane, call.caller, digest, file)


def _spooled(folder: Any) -> BinaryIO:
    """A file without a name, gone with its last handle; beside the home's data, not in a small /tmp."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    return file  # type: ignore[no-any-return]


def _keep(file: BinaryIO, hasher: Any, part: bytes) -> None:
    hasher.update(part)
    try:
        file.write(part)
    except OSError as e:
        raise errors.Unavailable(f"the upload cannot be kept: {e.strerror}.", hint="Free some space.") from None


def _store(plane: planes.Plane, caller: access.Caller, digest: str, file: BinaryIO) -> manifest.BlobRef:
    """Announce, then store, so that the collector finds an upload that is never registered; then note whose it is."""
    size = file.tell()
    file.seek(0)
    now = plane.clock()
    ref = manifest.BlobRef(digest, size)
    with plane.rows.write() as connection:
        retention.announce(connection, {digest: ref}, now=now)
    plane.registry.store.restore(digest)
    stored = plane.registry.store.put(file)
    key, request = _upload(caller, digest)
    with plane.rows.write() as connection:
        if answers.recall(connection, key, request, manifest.BlobRef) is None:
            answers.keep(connection, key, request, stored, now=now)
    return stored


def _upload(caller: access.Caller, digest: str) -> tuple[str, tuple[str, ...]]:
    """Under which key an upload is remembered. A caller's own keys hold no blank."""
    return f"upload {caller.id} {digest}", ("upload", digest)


def _check_own(plane: planes.Plane, caller: access.Caller, digests: Iterable[str]) -> None:
    """`NotFound` unless the caller uploaded each of these, or holds a version that needs it."""
    with plane.rows.read() as connection:
        for digest in digests:
            key, request = _upload(caller, digest)
            if answers.recall(connection, key, request, manifest.BlobRef) or _held(connection, caller, digest):
                continue
            raise errors.NotFound(f"there is no blob {digest}.", hint="Upload it first: PUT /blobs/sha256/...")


def _check_held(plane: planes.Plane, caller: access.Caller, digest: str) -> None:
    with plane.rows.read() as connection:
        if not _held(connection, caller, digest):
            raise errors.NotFound(f"there is no blob {digest}.")


def _held(connection: Any, caller: access.Caller, digest: str) -> bool:
    return any(caller.sees(version.name) for version in version_rows.holding(connection, digest))


def _checking(plane: planes.Plane, caller: access.Caller, name: str, version: int) -> jobs.Job:
    """The job that checks a version: the one under way, else a new one."""
    arguments = {"ref": f"{name}@{version}"}
    with plane.rows.write() as connection:
        for state in ("QUEUED", "RUNNING"):
            for job in jobs.every(connection, kind="verify", state=state, limit=routes.MAX_LIMIT):
                if job.arguments == arguments:
                    return job
        return jobs.enqueue(connection, "verify", arguments, actor=caller.actor, now=plane.clock())


def _parts(data: memoryview) -> Iterator[bytes]:
    for start in range(0, len(data), _CHUNK):
        yield bytes(data[start : start + _CHUNK])


_VERSIONS = "/models/{name}/versions"
_BLOB = "/blobs/sha256/{hex}"
ROUTES = (
    routes.Route("POST", _VERSIONS, "model:push", register, Registered, body=Package, status=201),
    routes.Route("POST", f"{_VERSIONS}/{{version}}/verify", "job:write", verify, jobs.Job, status=202),
    routes.Route("GET", _BLOB, "model:read", get, bytes),
    routes.Route("HEAD", _BLOB, "model:push", head),
    routes.Route("PUT", _BLOB, "model:push", put, manifest.BlobRef, body=bytes, status=201, max_body=MAX_BLOB),
)
