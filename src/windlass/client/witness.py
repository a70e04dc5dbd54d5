"""A load of which every answer is known: requests are numbered, and each is told with its answer as it comes.

Used by `windlass demo --life`, which has labels for what it asks; the load is this module in a process of its own.
Must never take a request for answered that was not, nor go on when whoever started it is gone.
"""

from __future__ import annotations

import itertools
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO

import msgspec
import uvloop

from windlass import errors
from windlass.client import account, generator, http_connection, plan, report

_LENGTH = struct.Struct(">I")
_LABEL = re.compile(rb'"label":\s*"([^"]{0,64})"')
_NUMBER = re.compile(rb"\r\nx-request-id: \w+-(\d+)\r\n")
_LINE_END = b"\r\n"
_PATIENCE_S = 60.0


class Watch(msgspec.Struct, frozen=True):
    """A load to be watched: an open loop over HTTP, whose requests are asked in turn, the first being number 0.

    Each has the header `x-request-id: NAME-NUMBER`, and `x-user: user-N` with one of `users` users (the same for the
    same number).
    """

    plan: plan.Plan
    name: str = "watched"
    users: int = 1


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What came of one request. `at` is when it was to start, in seconds since the epoch, `took_s` counts from there.

    `outcome` is one of `account`'s, `status` HTTP's (below 0: there was no answer). `version` and `label` are those of
    the first prediction; empty where the answer has none.
    """

    number: int
    at: float
    took_s: float
    outcome: int
    status: int
    version: str = ""
    label: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was answered as it should."""
        return self.outcome == account.OK


class _Connection(http_connection.Http1):
    """One connection that remembers what it asked and what it was told."""

    def __init__(self, owner: http_connection.Owner) -> None:
        super().__init__(owner)
        self.asked = b""
        self.told = b""

    def ask(self, data: bytes, intended: float) -> None:
        """Send a whole request."""
        self.asked, self.told = data, b""
        super().ask(data, intended)

    def on_body(self, body: bytes) -> None:
        """llhttp's; all of it is kept."""
        super().on_body(body)
        self.told += body


class _Watched(generator.OpenLoop):
    """An open loop that tells of every request."""

    def __init__(self, watch: Watch, over: threading.Event, told: IO[bytes]) -> None:
        super().__init__(watch.plan, over.is_set)
        self._requests = numbered(watch)
        self._out = told
        # A moment of the generator's clock, in seconds since the epoch.
        self._epoch = time.time() - self._clock()

    def _http(self) -> http_connection.Http1:
        return _Connection(self)

    def ended(self, connection: http_connection.Connection, intended: float, outcome: int, status: int) -> None:
        """A request has its outcome: tell of it."""
        if isinstance(connection, _Connection):
            found = _answer(connection, intended + self._epoch, self._clock() - intended, outcome, status)
            self._out.write(msgspec.json.encode(found) + b"\n")
            self._out.flush()
        super().ended(connection, intended, outcome, status)


def _answer(connection: _Connection, at: float, took_s: float, outcome: int, status: int) -> Answer:
    number = _NUMBER.search(connection.asked)
    version = account.VERSION.search(connection.told)
    label = _LABEL.search(connection.told)
    return Answer(
        int(number[1]) if number else -1,
        at,
        took_s,
        outcome,
        status,
        version[1].decode(errors="replace") if version else "",
        label[1].decode(errors="replace") if label else "",
    )


def numbered(watch: Watch) -> Iterator[bytes]:
    """The requests in turn, each with its number and its user."""
    parts = [request.data.partition(_LINE_END) for request in watch.plan.target.requests]
    for number in itertools.count():
        line, _, rest = parts[number % len(parts)]
        yield b"%b\r\nx-request-id: %b-%d\r\nx-user: %b\r\n%b" % (
            line,
            watch.name.encode(),
            number,
            user(number, watch.users).encode(),
            rest,
        )


def user(number: int, users: int) -> str:
    """Who asks a request: users in an order without a pattern (Knuth's multiplicative hash)."""
    return f"user-{(number * 2_654_435_761 % 2**32) % users}"


class Witness:
    """A load that runs from now on until `stop`; what is answered can be read meanwhile."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._answers: list[Answer] = []
        self._report: report.Report | None = None
        self._child = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        message = msgspec.msgpack.encode(watch)
        stdin = self._pipe(self._child.stdin)
        stdin.write(_LENGTH.pack(len(message)) + message)
        stdin.flush()
        self._thread = threading.Thread(target=self._read, name="witness", daemon=True)
        self._thread.start()

    def answers(self, after: int = 0) -> list[Answer]:
        """All answers but the first `after`, in the order in which they came."""
        return self._answers[after:]

    def stop(self) -> report.Report:
        """Let what is under way have its answer, and give the account."""
        self.close()
        if self._report is None:
            raise errors.InternalError("the load ended before its time; its words are above")
        return self._report

    def close(self) -> None:
        """End it; may be called twice."""
        self._pipe(self._child.stdin).close()
        try:
            self._child.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._thread.join(_PATIENCE_S)
        self._pipe(self._child.stdout).close()

    def _read(self) -> None:
        decode = msgspec.json.Decoder(Answer).decode
        for line in self._pipe(self._child.stdout):
            if line.startswith(b"["):
                self._answers.append(decode(line))
            else:
                self._report = msgspec.json.decode(line, type=report.Report)

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:
            raise errors.InternalError("the load has no pipe")
        return pipe

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main() -> None:
    """The child: carry out the plan that comes on stdin until it is closed; answers on stdout, at last the account."""
    # The parent decides what an interrupt means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    length = _LENGTH.unpack(sys.stdin.buffer.read(_LENGTH.size))[0]
    watch = msgspec.msgpack.decode(sys.stdin.buffer.read(length), type=Watch)
    over = threading.Event()

    def wait() -> None:
        sys.stdin.buffer.read(1)
        over.set()

    threading.Thread(target=wait, name="end", daemon=True).start()

    async def run() -> report.Report:
        return await _Watched(watch, over, sys.stdout.buffer).run()

    told = uvloop.run(run())
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
