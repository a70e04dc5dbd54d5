"""Messages between the supervisor and its workers: questions and answers on a socket pair, as JSON with its length.

Both sides hold one `Channel`; whatever is asked is answered once, by a value or by an error of our own tree. Must never
carry code, or a request of a caller: what passes here decides what is served, not how.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from windlass import errors
from windlass.serving.door import leases
from windlass.serving.routing import firsts
from windlass.types import spec

log = logging.getLogger(__name__)
MOST_BYTES = 64 * 1024 * 1024
_PREFIX = 4


class Start(msgspec.Struct, frozen=True, tag=True):
    """The first word to a worker: what it is started with."""

    spec: spec.Spec


class Apply(msgspec.Struct, frozen=True, tag=True):
    """Put a spec in force. `back`: although one that is as new or newer is in force.

    `weights` is the generation of each endpoint's weights, by its name.
    """

    spec: spec.Spec
    back: bool = False
    weights: dict[str, int] = {}


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Load what a spec names and is not in memory: it is about to come."""

    spec: spec.Spec


class Revoke(msgspec.Struct, frozen=True, tag=True):
    """Only these keys from now on."""

    keys: tuple[spec.Key, ...]
    pepper: str


class Change(msgspec.Struct, frozen=True, tag=True):
    """Load or unload a model of the repository: asked up by a worker whose caller wants it, and down of all."""

    name: str
    load: bool


class Weigh(msgspec.Struct, frozen=True, tag=True):
    """How many bytes the models of a spec have, and how many of them run in processes of their own."""

    spec: spec.Spec


class Status(msgspec.Struct, frozen=True, tag=True):
    """What is served, loading or failed."""


class Open(msgspec.Struct, frozen=True, tag=True):
    """Accept connections. `alone`: no other worker does, but for a moment."""

    alone: bool


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Say to whoever asks whether you are ready, and go on."""

    ready: bool


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Accept no more, finish what is in flight, end."""


class Demand(msgspec.Struct, frozen=True, tag=True):
    """What a worker says of the limits that all share, by the limit's name."""

    wants: dict[str, leases.Want]


class Told(msgspec.Struct, frozen=True, tag=True):
    """Sticky keys that had a bad event, each once from a worker."""

    bad: tuple[firsts.Bad, ...]


class Grant(msgspec.Struct, frozen=True, tag=True):
    """A worker's shares of the limits that all share, by the limit's name."""

    shares: dict[str, leases.Share]


Body: TypeAlias = (
    Start | Apply | Prepare | Revoke | Change | Weigh | Status | Open | Ready | Drain | Demand | Told | Grant
)


class Question(msgspec.Struct, frozen=True, tag=True):
    """Something to do. `id` 0 wants no answer; the others are numbered by who asks."""

    id: int
    body: Body


class Answer(msgspec.Struct, frozen=True, tag=True):
    """What came of question `id`: a value, or the code, the message and the hint of an error."""

    id: int
    value: Any = None
    code: str = ""
    message: str = ""
    hint: str = ""


Message: TypeAlias = Question | Answer
_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def encode(message: Message) -> bytes:
    """A message as bytes: four of its length, little-endian, then JSON."""
    data = _encode(message)
    return len(data).to_bytes(_PREFIX, "little") + data


class Reader:
    """Bytes in pieces of any size to messages."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now; `InternalError` on what is no message."""
        self._kept += data
        found: list[Message] = []
        at = 0
        while len(self._kept) - at >= _PREFIX:
            size = int.from_bytes(self._kept[at : at + _PREFIX], "little")
            if size > MOST_BYTES:
                raise errors.InternalError(f"a message of {size} bytes came over the channel")
            end = at + _PREFIX + size
            if len(self._kept) < end:
                break
            try:
                found.append(_decoder.decode(memoryview(self._kept)[at + _PREFIX : end]))
            except msgspec.MsgspecError as e:
                raise errors.InternalError(f"what came over the channel is no message: {e}") from None
            at = end
        del self._kept[:at]
        return found


class Channel(asyncio.Protocol):
    """One end. `handle(body)` answers the other side's questions; `lost()` is called when the other side is gone."""

    def __init__(self, handle: Callable[[Body], Awaitable[Any]], lost: Callable[[], None]) -> None:
        self._handle = handle
        self._lost = lost
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> bool:
        """Whether the other side is there."""
        return self._transport is not None

    def tell(self, body: Body) -> None:
        """Send what wants no answer."""
        self._send(Question(0, body))

    async def ask(self, body: Body, timeout_s: float | None = None) -> Any:
        """The answer's value, or its error raised; `Unavailable` if there was none in time or the other side ended."""
        self._last += 1
        number = self._last
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(Question(number, body))
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise errors.Unavailable(f"no answer within {timeout_s} s") from None
        finally:
            self._waiting.pop(number, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's: the channel is open."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's transport is no subclass

    def data_received(self, data: bytes) -> None:
        """asyncio's: answers go to who asked, questions to `handle`, each in a task of its own."""
        try:
            messages = self._reader.feed(data)
        except errors.InternalError:
            log.exception("the channel cannot be read")
            self.close()
            return
        for message in messages:
            if isinstance(message, Answer):
                self._settle(message)
            else:
                task = asyncio.get_running_loop().create_task(self._do(message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """asyncio's: whatever still waits gets an error."""
        self._transport = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_ended())
        self._lost()

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.close()

    def _send(self, message: Message) -> None:
        if self._transport is None:
            raise _ended()
        self._transport.write(encode(message))

    def _settle(self, answer: Answer) -> None:
        future = self._waiting.get(answer.id)
        if future is None or future.done():
            return
        if answer.code:
            kind = KINDS.get(answer.code, errors.WindlassError)
            future.set_exception(kind(answer.message, hint=answer.hint))
        else:
            future.set_result(answer.value)

    async def _do(self, question: Question) -> None:
        try:
            answer = Answer(question.id, await self._handle(question.body))
        except errors.WindlassError as e:
            answer = Answer(question.id, code=e.code, message=e.message, hint=e.hint)
        except Exception as e:
            log.exception("%s failed unexpectedly", type(question.body).__name__)
            answer = Answer(question.id, code=errors.InternalError.code, message=f"an unexpected fault: {e}")
        if question.id and self._transport is not None:
            self._send(answer)


def _ended() -> errors.Unavailable:
    return errors.Unavailable("the process at the other end has ended")


def _kinds(kind: type[errors.WindlassError]) -> dict[str, type[errors.WindlassError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        found.update(_kinds(child))
    return found


KINDS = _kinds(errors.WindlassError)
