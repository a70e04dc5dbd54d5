"""What `windlass bench` measures: a server that is there, or one of its own for a version, on cores of its own.

Used by `bench` and `bench_tune`. Must never leave a server behind, nor let it share a core with the generator where
there are two.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from windlass import errors, references, settings
from windlass.client import capacity, inputs, plan, targets
from windlass.packaging import archive
from windlass.serving import launch
from windlass.storage import blobs
from windlass.types import spec, tensor, tensor_codec

_MEDIA = {
    ".json": "application/json",
    ".csv": "text/csv",
    ".txt": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
}


class Asking(msgspec.Struct, frozen=True):
    """How subjects are asked: the protocol, the inputs, how to be let in."""

    protocol: str
    access: targets.Access
    sizes: tuple[inputs.Size, ...]
    files: tuple[str, ...] = ()


class Cores(msgspec.Struct, frozen=True):
    """Who runs where; none where there is only one core."""

    server: tuple[int, ...] = ()
    generators: tuple[int, ...] = ()


def cores(generators: int) -> Cores:
    """The last cores for the generators, at most half of them; the others for the server."""
    here = sorted(os.sched_getaffinity(0))
    if len(here) < 2:
        return Cores()
    cut = len(here) - min(generators, len(here) // 2)
    return Cores(tuple(here[:cut]), tuple(here[cut:]))


def is_url(text: str) -> bool:
    """Whether it is a server that is there already."""
    return text.startswith(("http://", "https://"))


def at_url(name: str, url: str, asking: Asking) -> capacity.Subject:
    """A server that is there."""
    return capacity.Subject(name, _target(url, asking, ()))


@contextlib.contextmanager
def started(
    configuration: settings.Settings,
    ref: str,
    asking: Asking,
    where: Cores,
    settled: spec.Endpoint | None = None,
    workers: int = 0,
) -> Iterator[capacity.Subject]:
    """A server of its own for a version, by default with a worker a core; `settled` has other settings."""
    endpoint = references.endpoints(configuration, [ref])[0] if settled is None else settled
    wanted = spec.Spec(
        endpoints=(endpoint,), listen="127.0.0.1:0", admin="127.0.0.1:0", workers=workers or max(1, len(where.server))
    )
    with contextlib.ExitStack() as held:
        with _on(where.server):
            server = held.enter_context(launch.Server(wanted, configuration.home))
        yield capacity.Subject(ref, _target(f"{server.url}/{endpoint.name}", asking, endpoint.arms))


@contextlib.contextmanager
def _on(wanted: Sequence[int]) -> Iterator[None]:
    """What is started inside runs on these cores."""
    before = os.sched_getaffinity(0)
    if wanted:
        os.sched_setaffinity(0, wanted)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _target(url: str, asking: Asking, arms: tuple[spec.Arm, ...]) -> plan.Target:
    bodies, given = _read(asking.files)
    try:
        return targets.find(url, asking.protocol, asking.access, sizes=asking.sizes, given=given, bodies=bodies)
    except errors.InvalidInput:
        # Random numbers may be outside of what the model takes; the package has rows that are inside.
        if not arms or bodies or given:
            raise
        return targets.find(url, asking.protocol, asking.access, given=_example(arms[0]))


def _example(arm: spec.Arm) -> list[tensor.Tensors]:
    """The rows of a package's golden inputs, one a request."""
    opened = (
        archive.open_path(Path(arm.path)) if arm.path else archive.open_store(blobs.BlobStore(arm.store), arm.digest)
    )
    golden = tensor_codec.unpack(opened.read(opened.manifest.golden.inputs))
    if not opened.manifest.signature.batched:
        return [golden]
    rows = min(len(array) for array in golden.values())
    return [{name: array[row : row + 1] for name, array in golden.items()} for row in range(rows)]


def _read(files: Sequence[str]) -> tuple[list[tuple[targets.Body, float]], list[tensor.Tensors]]:
    """Requests from files: tensors from .npz, anything else as it is; `FILE@WEIGHT` for its share."""
    bodies: list[tuple[targets.Body, float]] = []
    given: list[tensor.Tensors] = []
    for text in files:
        name, _, weight = text.rpartition("@") if not Path(text).is_file() else (text, "", "")
        path = Path(name)
        if not path.is_file():
            raise errors.NotFound(f"There is no file {text}.", hint="Check the path given with --input.")
        if path.suffix == ".npz":
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    given.append({each: arrays[each] for each in arrays.files})
            except (ValueError, OSError):
                raise errors.UsageError(
                    f"{path} cannot be read as numpy arrays.", hint="Write it with numpy.savez, without objects."
                ) from None
            continue
        kind = _MEDIA.get(path.suffix.lower(), "application/octet-stream")
        try:
            bodies.append((targets.Body(path.read_bytes(), {"content-type": kind}), float(weight or 1)))
        except ValueError:
            raise errors.UsageError(f"'{weight}' is no share.", hint="Write FILE@0.5") from None
    if bodies and given:
        raise errors.UsageError("Requests are either tensors (.npz) or files as they are, not both.")
    return bodies, given
