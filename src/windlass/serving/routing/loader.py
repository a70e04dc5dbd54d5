"""Loads one version: its bytes, its verdict, its golden outputs, its timings. Runs on the loader's thread.

Called by the pool for each new arm. Any failure is an error and leaves what serves untouched.
Must never run in a request's way, and never skip a check because a version was loaded before.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from windlass import errors
from windlass.packaging import archive, session
from windlass.packaging import verdicts as kept
from windlass.runtimes import base
from windlass.serving.scheduling import measure
from windlass.storage import blobs
from windlass.types import evidence, spec, strict_json, tensor_codec

log = logging.getLogger(__name__)
# Above this, one row keeps a core busy long enough for more threads to pay.
_THREADS_FROM_S = 2e-3
_MOST_KNOWN = 256


class Loaded(msgspec.Struct, frozen=True):
    """A version in memory, warm, with what was measured of it. `apart` is a process of its own, confined."""

    session: session.Session
    digest: str
    version: str
    threads: int
    inline: bool
    timing: measure.Timing
    seconds: float
    apart: bool = False


class _Measured(NamedTuple):
    threads: int
    timing: measure.Timing


# What was measured of a version, by its digest, the threads asked for (0: any), the most rows, and where it runs. A
# version that comes back is the same model on the same machine: it is not timed again beside the one that serves.
_Place: TypeAlias = tuple[str, int, int, session.Where]
_known: dict[_Place, _Measured] = {}


def load(endpoint: spec.Endpoint, verdicts: str, trusted: tuple[str, ...] = ()) -> Loaded:
    """Load the endpoint's one arm; the error says what is wrong with it. `trusted` keys may sign what carries code."""
    arm = endpoint.arms[0]
    started = time.perf_counter()
    package = _open(endpoint.name, arm)
    runtime = package.manifest.model.runtime
    apart = endpoint.placement == "process" or session.carries_code(runtime)
    if package.digest != arm.digest:
        raise errors.CorruptPackage(
            f"the package of '{endpoint.name}' has the digest {package.digest}, not {arm.digest}"
        )
    if session.carries_code(runtime):
        _check_signature(endpoint.name, arm, trusted)
    if verdicts:
        _on_probation(arm, Path(verdicts))
    where: session.Where = "apart" if apart else "here"
    place = (arm.digest, endpoint.threads, endpoint.max_batch or package.manifest.limits.max_batch, where)
    known = _known.get(place)
    threads = known.threads if known is not None else endpoint.threads or 1
    opened = session.open(package, options=base.Options(threads=threads), where=where)
    if opened.resemblance is not None:
        seen = opened.resemblance
        log.info("'%s' was made on another processor ('%s'): %s", endpoint.name, seen.made_on, seen.words)
    if known is None:
        opened, known = _measure(opened, place)
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[place] = known
    inline = not apart and _is_inline(endpoint, known.timing)
    seconds = time.perf_counter() - started
    return Loaded(opened, package.digest, arm.version, known.threads, inline, known.timing, seconds, apart)


def _measure(opened: session.Session, place: _Place) -> tuple[session.Session, _Measured]:
    """Time the model on the threads asked for, or on one and, if it is slow, on every core; keep the better."""
    package = opened.package
    golden = tensor_codec.unpack(package.read(package.manifest.golden.inputs))
    batched = package.manifest.signature.batched
    _, asked, max_rows, where = place
    timing = measure.timing(opened.model, golden, batched=batched, max_rows=max_rows)
    cores = len(os.sched_getaffinity(0))
    if asked or cores == 1 or timing.seconds[1] <= _THREADS_FROM_S:
        return opened, _Measured(asked or 1, timing)
    wide = session.open(package, options=base.Options(threads=cores), check_golden=False, where=where)
    wide_timing = measure.timing(wide.model, golden, batched=batched, max_rows=max_rows)
    if wide_timing.rows_per_s > timing.rows_per_s:
        opened.close()
        return wide, _Measured(cores, wide_timing)
    wide.close()
    return opened, _Measured(1, timing)


def _is_inline(endpoint: spec.Endpoint, timing: measure.Timing) -> bool:
    if endpoint.placement == "auto":
        return timing.usual_s < measure.INLINE_BELOW_S
    return endpoint.placement == "inline"


def _check_signature(name: str, arm: spec.Arm, trusted: tuple[str, ...]) -> None:
    """`NotAllowed` unless a listed key has signed the digest; checked by a program of its own (security/signing.py)."""
    line = [sys.executable, "-m", "windlass.security.signing", arm.digest, *trusted]
    checked = subprocess.run(line, input=arm.signature.encode(), capture_output=True, check=False)
    if checked.returncode != 0:
        reason = checked.stdout.decode(errors="replace") or "its signature could not be checked"
        raise errors.NotAllowed(f"'{name}' is not loaded: {reason}")


def _open(name: str, arm: spec.Arm) -> archive.Package:
    """The arm's package. Where it lies on this machine goes to the log: callers are told why a model is not there."""
    try:
        if arm.path:
            return archive.open_path(Path(arm.path))
        return archive.open_store(blobs.BlobStore(arm.store), arm.digest)
    except (errors.NotFound, errors.Unavailable) as e:
        log.error("the package of '%s' cannot be read: %s", name, e.message)
        raise errors.Unavailable(f"the package of '{name}' cannot be read by this server") from None


def _on_probation(arm: spec.Arm, verdicts: Path) -> None:
    """A first load elsewhere, unless its verdict is known: what crashes there does not crash here."""
    found = kept.known(arm.digest, verdicts)
    if found is None:
        place = ["--path", arm.path] if arm.path else ["--store", arm.store]
        line = [sys.executable, "-m", "windlass.packaging.probation", *place, "--digest", arm.digest]
        judged = subprocess.run([*line, "--verdicts", str(verdicts)], capture_output=True, check=False)
        if judged.returncode != 0:
            log.error(
                "probation of %s could not be run: %s", arm.digest, judged.stderr.decode(errors="replace")[-2_000:]
            )
            raise errors.Unavailable(f"the probation load of {arm.digest[:19]} could not be run on this machine")
        found = strict_json.decode(judged.stdout, evidence.Evidence, what="the probation's verdict")
    if found.verdict == "failed":
        reason = found.statistics.get("reason", "unknown")
        raise errors.GateRefused(f"the version {arm.digest[:19]} failed its probation load: {reason}")
