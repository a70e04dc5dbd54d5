"""A model in a confined process of its own: what may carry code never runs in a process that serves.

Loaded by `session.open` for packages whose runtime carries code, or whose operator wants the isolation. Tensors pass
through memory that both sides hold (sealed, so that neither can shrink it under the other), words through two pipes.
Must never give the child a path, a socket or a secret, nor believe a length that it sends.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from windlass import errors
from windlass.runtimes import base
from windlass.security import sandbox, temporary
from windlass.types import signature, tensor, tensor_codec

log = logging.getLogger(__name__)
# What one request or one answer may take; memory that is not touched costs nothing.
ROOM = 1 << 30
READY, ANSWER, FAILED = b"R", b"A", b"F"
HEAD = struct.Struct("<cQ")
LENGTH = struct.Struct("<Q")
_MAX_WORDS = 1_048_576
_MEMORY_FLOOR = 4 * sandbox.GIB
_MEMORY_FACTOR = 6  # of the model's bytes, as for its first load
_LOAD_S = 300.0
_RUN_S = 120.0
# Pauses before the second, third ... start of a child that keeps dying, in seconds; the last one stays.
_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 5.0)
_STEADY_S = 60.0


class Described(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the child says once it has loaded the model."""

    inputs: tuple[signature.TensorSpec, ...]
    outputs: tuple[signature.TensorSpec, ...]


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error of the child's: its code and its sentence."""

    code: str
    message: str


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The child's argument: what to load, how, and the descriptors to talk through; `files` are name -> (fd, size)."""

    runtime: str
    threads: int
    optimize: bool
    asked: int
    told: int
    requests: int
    answers: int
    files: dict[str, tuple[int, int]]


_KINDS: dict[str, type[errors.WindlassError]] = {
    kind.code: kind for kind in (errors.CorruptPackage, errors.InternalError, errors.InvalidInput, errors.Unsupported)
}


class Contained:
    """A `runtimes.base.LoadedModel` whose process may die: the run under way fails, the next one starts it again.

    `run` blocks; it is called from one thread at a time, as any model's.
    """

    def __init__(
        self, runtime: str, files: base.Files, options: base.Options, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start it and wait until the model is loaded; the child's own error if it cannot be."""
        self._clock = clock
        self._held = contextlib.ExitStack()
        self._child: subprocess.Popen[bytes] | None = None
        self._deaths = 0
        self._started = self._next_start = 0.0
        # The descriptors of one life: where words are written to the child and read from it.
        self._ask = self._hear = -1
        try:
            scratch = self._held.enter_context(temporary.folder("windlass-model-"))
            self._place = sandbox.Place(scratch)
            self._requests, self._answers = self._shared("requests", ROOM), self._shared("answers", ROOM)
            self._words = self._shared("words", 0)
            self._files = {name: (self._file(name, data), len(data)) for name, data in files.items()}
            size = sum(length for _, length in self._files.values())
            memory = _MEMORY_FLOOR + _MEMORY_FACTOR * size
            self._limits = sandbox.Limits(memory=memory, cpu_s=1 << 40, disk=2 * ROOM)
            self._runtime, self._options = runtime, options
            described = self._start()
        except BaseException:
            self.unload()
            raise
        self.inputs, self.outputs = described.inputs, described.outputs

    def run(self, inputs: tensor.Tensors, outputs: Sequence[str] | None = None) -> tensor.Tensors:
        """The named outputs (None: all); `InternalError` if the run fails or its process dies, `Unavailable` while

        a process that keeps dying waits for its next start.
        """
        if self._child is None:
            self._start_again()
        request = tensor_codec.pack(inputs)
        if len(request) > ROOM:
            raise errors.PayloadTooLarge(f"the batch has {len(request)} bytes: at most {ROOM} fit")
        _write(self._requests, request)
        try:
            os.write(self._ask, LENGTH.pack(len(request)))
            answer = self._heard(_RUN_S)
        except OSError:
            raise self._died("the model's process ended during the run") from None
        try:
            results = tensor_codec.unpack(answer)
        except errors.CorruptPackage as e:
            raise self._died(f"the model's process gave no tensors: {e.message}") from None
        names = [spec.name for spec in self.outputs] if outputs is None else list(outputs)
        if any(name not in results for name in names):
            raise self._died("the model's process left out an output")
        return {name: results[name] for name in names}

    def unload(self) -> None:
        """End the process and give its memory back."""
        self._end()
        self._held.close()

    # one life of the child

    def _start(self) -> Described:
        hers_in, self._ask = os.pipe()
        self._hear, hers_out = os.pipe()
        start = Start(
            self._runtime,
            self._options.threads,
            self._options.optimize,
            hers_in,
            hers_out,
            self._requests,
            self._answers,
            self._files,
        )
        passed = (hers_in, hers_out, self._requests, self._answers, *(fd for fd, _ in self._files.values()))
        try:
            self._child = sandbox.start(
                ("windlass.packaging.contained_child", msgspec.json.encode(start).decode()),
                self._place,
                limits=self._limits,
                stderr=self._words,
                pass_fds=passed,
            )
        finally:
            os.close(hers_in)
            os.close(hers_out)
        self._started = self._clock()
        try:
            return msgspec.json.decode(self._heard(_LOAD_S), type=Described)
        except msgspec.DecodeError:
            raise self._died("the model's process said nothing of use") from None
        except OSError:
            raise self._died("the model's process ended while it loaded the model") from None

    def _start_again(self) -> None:
        now = self._clock()
        if now < self._next_start:
            raise errors.Unavailable(
                "the model's process ended and is started again", retry_after_s=max(1, round(self._next_start - now))
            )
        self._start()

    def _heard(self, within_s: float) -> bytes:
        """The child's next answer, copied out of the shared memory; its error if it tells one. `OSError` at its end."""
        poll = select.poll()
        poll.register(self._hear, select.POLLIN)
        if not poll.poll(within_s * 1000):
            raise self._died(f"the model's process gave no answer within {within_s:g} s")
        head = os.read(self._hear, HEAD.size)
        if len(head) != HEAD.size:
            raise BrokenPipeError
        kind, length = HEAD.unpack(head)
        if length > ROOM:
            raise self._died("the model's process gave a length that cannot be")
        data = _read(self._answers, length)
        if kind != FAILED:
            return data
        if length > _MAX_WORDS:
            raise self._died("the model's process gave too long an error")
        try:
            told = msgspec.json.decode(data, type=Failure)
        except msgspec.DecodeError:
            raise self._died("the model's process gave an error that cannot be read") from None
        raise _KINDS.get(told.code, errors.InternalError)(sandbox.plain_text(told.message))

    def _died(self, reason: str) -> errors.InternalError:
        """End what is left of the child, and say when it may start again."""
        now = self._clock()
        self._deaths = 1 if now - self._started > _STEADY_S else self._deaths + 1
        self._next_start = now + _PAUSES_S[min(self._deaths, len(_PAUSES_S)) - 1]
        self._end()
        words = sandbox.last_words(_read(self._words, min(os.fstat(self._words).st_size, _MAX_WORDS)))
        log.error("%s; its last words: %s", reason, words or "none")
        os.ftruncate(self._words, 0)
        return errors.InternalError(reason)

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
        for descriptor in (self._ask, self._hear):
            if descriptor >= 0:
                os.close(descriptor)
        self._ask = self._hear = -1

    def _shared(self, name: str, size: int) -> int:
        """Memory that the child holds too; of a fixed size if it has one."""
        descriptor = os.memfd_create(name, os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        self._held.callback(os.close, descriptor)
        if size:
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return descriptor

    def _file(self, name: str, data: bytes | memoryview) -> int:
        descriptor = os.memfd_create(name[:64], os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        self._held.callback(os.close, descriptor)
        _write(descriptor, data)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        return descriptor


def load(runtime: str, files: Mapping[str, bytes | memoryview], options: base.Options) -> Contained:
    """The model of `files`, loaded by the named runtime behind walls.

    `NotAllowed` if this machine cannot confine it, `CorruptPackage` or `Unsupported` as its runtime says.
    """
    return Contained(runtime, files, options)


def _write(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], done)


def _read(descriptor: int, length: int) -> bytes:
    parts: list[bytes] = []
    done = 0
    while done < length:
        part = os.pread(descriptor, length - done, done)
        if not part:
            break
        parts.append(part)
        done += len(part)
    return b"".join(parts)
