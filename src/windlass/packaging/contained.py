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
import signal
import struct
import subprocess
import threading
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


class _Life:
    """One life of the child: its process, and the pipes of words to it and from it."""

    def __init__(self, child: subprocess.Popen[bytes], ask: int, hear: int, started: float) -> None:
        self.pid = child.pid
        self.ask, self.hear, self.started = ask, hear, started
        self.closed = False
        self._child = child
        self._descriptor = os.pidfd_open(child.pid)

    def wait(self) -> None:
        """Until it has ended, however."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.poll()

    def kill(self) -> None:
        """End it; from any thread, until it is closed."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def close(self) -> None:
        """End it, and give all that it had back."""
        self.closed = True
        self.kill()
        self._child.wait()
        for descriptor in (self._descriptor, self.ask, self.hear):
            os.close(descriptor)


class Contained:
    """A `runtimes.base.LoadedModel` whose process may die: the run under way fails, and it is started again at once.

    One thread starts it, again and again, and watches it: the kernel ends a child with the thread that started it, and
    nobody need wait for the next start of a child that died while it was not asked. `run` blocks; it is called from
    one thread at a time, as any model's.
    """

    def __init__(
        self, runtime: str, files: base.Files, options: base.Options, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start it and wait until the model is loaded; the child's own error if it cannot be."""
        self.restarts = 0
        self.inputs: tuple[signature.TensorSpec, ...] = ()
        self.outputs: tuple[signature.TensorSpec, ...] = ()
        self._runtime, self._options, self._clock = runtime, options, clock
        self._held = contextlib.ExitStack()
        # Guards what follows. `_begun` is the child there is, `_life` that child once it answers.
        self._changed = threading.Condition()
        self._begun: _Life | None = None
        self._life: _Life | None = None
        self._refused: BaseException | None = None
        self._closing = False
        self._deaths = 0
        self._pause_s = self._next_start = 0.0
        # Held while the pipes are in use, so that no other file takes their numbers meanwhile.
        self._talking = threading.Lock()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        try:
            scratch = self._held.enter_context(temporary.folder("windlass-model-"))
            self._place = sandbox.Place(scratch)
            self._requests, self._answers = self._shared("requests", ROOM), self._shared("answers", ROOM)
            self._words = self._shared("words", 0)
            self._files = {name: (self._file(name, data), len(data)) for name, data in files.items()}
            size = sum(length for _, length in self._files.values())
            memory = _MEMORY_FLOOR + _MEMORY_FACTOR * size
            self._limits = sandbox.Limits(memory=memory, cpu_s=1 << 40, disk=2 * ROOM)
            self._keeper.start()
            with self._changed:
                self._changed.wait_for(lambda: self._life is not None or self._refused is not None)
            if self._refused is not None:
                raise self._refused
        except BaseException:
            self.unload()
            raise

    @property
    def pid(self) -> int:
        """The process that answers; 0 while there is none."""
        life = self._life
        return 0 if life is None else life.pid

    def run(self, inputs: tensor.Tensors, outputs: Sequence[str] | None = None) -> tensor.Tensors:
        """The named outputs (None: all); `InternalError` if the run fails or its process dies, `Unavailable` while

        a process that keeps dying waits for its next start.
        """
        request = tensor_codec.pack(inputs)
        if len(request) > ROOM:
            raise errors.PayloadTooLarge(f"the batch has {len(request)} bytes: at most {ROOM} fit")
        results: tensor.Tensors | None = None
        while results is None:
            life = self._alive()
            with self._talking:
                if not life.closed:
                    results = self._told(life, request)
        names = [spec.name for spec in self.outputs] if outputs is None else list(outputs)
        if any(name not in results for name in names):
            raise self._lost(life, "the model's process left out an output")
        return {name: results[name] for name in names}

    def unload(self) -> None:
        """End the process and give its memory back."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            if self._begun is not None:
                self._begun.kill()
        if self._keeper.ident is not None:
            self._keeper.join()
        self._held.close()

    # What is asked

    def _alive(self) -> _Life:
        """The child that answers, or will in a moment."""
        with self._changed:
            while self._life is None:
                now = self._clock()
                if now < self._next_start or self._closing:
                    raise errors.Unavailable(
                        "the model's process ended and is started again",
                        retry_after_s=max(1, round(self._next_start - now)),
                    )
                self._changed.wait()
            return self._life

    def _told(self, life: _Life, request: bytes) -> tensor.Tensors:
        _write(self._requests, request)
        try:
            os.write(life.ask, LENGTH.pack(len(request)))
            answer = self._heard(life, _RUN_S)
        except BrokenPipeError:
            raise self._lost(life, "the model's process ended during the run") from None
        except ConnectionError as e:
            raise self._lost(life, f"the model's process {e}") from None
        try:
            return tensor_codec.unpack(answer)
        except errors.CorruptPackage as e:
            raise self._lost(life, f"the model's process gave no tensors: {e.message}") from None

    def _lost(self, life: _Life, reason: str) -> errors.InternalError:
        """Nothing more is asked of this child."""
        with self._changed:
            if self._life is life:
                life.kill()
                self._died(reason, life.started)
        return errors.InternalError(reason)

    def _died(self, reason: str, started: float) -> None:
        """Say when the child may start again."""
        now = self._clock()
        self._life = None
        self.restarts += 1
        self._deaths = 1 if now - started > _STEADY_S else self._deaths + 1
        self._pause_s = _PAUSES_S[min(self._deaths, len(_PAUSES_S)) - 1]
        self._next_start = now + self._pause_s
        self._tell_words(reason)
        self._changed.notify_all()

    def _tell_words(self, reason: str) -> None:
        words = sandbox.last_words(_read(self._words, min(os.fstat(self._words).st_size, _MAX_WORDS)))
        log.error("%s; its last words: %s", reason, words or "none")
        os.ftruncate(self._words, 0)

    def _heard(self, life: _Life, within_s: float) -> bytes:
        """The child's next answer, copied out of the shared memory; its error if it tells one.

        `BrokenPipeError` at its end, `ConnectionError` says what it did instead.
        """
        poll = select.poll()
        poll.register(life.hear, select.POLLIN)
        if not poll.poll(within_s * 1000):
            raise ConnectionError(f"gave no answer within {within_s:g} s")
        head = os.read(life.hear, HEAD.size)
        if len(head) != HEAD.size:
            raise BrokenPipeError
        kind, length = HEAD.unpack(head)
        if length > ROOM:
            raise ConnectionError("gave a length that cannot be")
        data = _read(self._answers, length)
        if kind != FAILED:
            return data
        if length > _MAX_WORDS:
            raise ConnectionError("gave too long an error")
        try:
            told = msgspec.json.decode(data, type=Failure)
        except msgspec.DecodeError:
            raise ConnectionError("gave an error that cannot be read") from None
        raise _KINDS.get(told.code, errors.InternalError)(sandbox.plain_text(told.message))

    # The keeper's thread

    def _keep(self) -> None:
        while not self._closing:
            try:
                self._live()
            except BaseException as e:  # noqa: BLE001 - whatever it was, who waits for the first start is told
                with self._changed:
                    if not self.outputs:
                        self._tell_words(f"the model's process was not started: {e}")
                        self._refused = e
                        self._changed.notify_all()
                        return
                    self._died(f"the model's process cannot be started again: {e}", self._clock())
            with self._changed:
                self._changed.wait_for(lambda: self._closing, self._pause_s)

    def _live(self) -> None:
        """One life, from its start to its end; any error if it does not come to answer."""
        life = self._start()
        try:
            with self._changed:
                self._begun = life
                if self._closing:
                    return
            described = self._introduced(life)
            with self._changed:
                self.inputs, self.outputs = described.inputs, described.outputs
                self._life = life
                self._changed.notify_all()
            life.wait()
            with self._changed:
                if self._life is life and not self._closing:
                    self._died("the model's process ended", life.started)
        finally:
            with self._changed:
                self._begun = self._life = None
            with self._talking:
                life.close()

    def _start(self) -> _Life:
        with contextlib.ExitStack() as failing:
            hers_in, ask = os.pipe()
            hear, hers_out = os.pipe()
            for descriptor in (ask, hear):
                failing.callback(os.close, descriptor)
            shared = (self._requests, self._answers)
            names = (self._runtime, self._options.threads, self._options.optimize)
            start = Start(*names, hers_in, hers_out, *shared, self._files)
            try:
                child = sandbox.start(
                    ("windlass.packaging.contained_child", msgspec.json.encode(start).decode()),
                    self._place,
                    limits=self._limits,
                    stderr=self._words,
                    pass_fds=(hers_in, hers_out, *shared, *(fd for fd, _ in self._files.values())),
                )
            finally:
                os.close(hers_in)
                os.close(hers_out)
            life = _Life(child, ask, hear, self._clock())
            failing.pop_all()
        return life

    def _introduced(self, life: _Life) -> Described:
        try:
            return msgspec.json.decode(self._heard(life, _LOAD_S), type=Described)
        except msgspec.DecodeError:
            raise errors.InternalError("the model's process said nothing of use") from None
        except BrokenPipeError:
            raise errors.InternalError("the model's process ended while it loaded the model") from None
        except ConnectionError as e:
            raise errors.InternalError(f"the model's process {e}") from None

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
