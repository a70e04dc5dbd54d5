"""Asks a running server badly: `python drive.py PORT KIND SEED COUNT [KEYS]`, and prints what it saw as JSON.

Started by `test_server_fuzz.py` as a process of its own. KIND is one of `KINDS`; the same seed asks the same. KEYS are
API keys with commas between them. Must never wait for an answer for more than twenty seconds.
"""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

import answers
import bodies
import calls
import frames

_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Z][^\r]*\r\n((?:[^\r\n]+\r\n)*)\r\n")
Asked = tuple[str, frames.Fields, bytes]


class Drive:
    """A port, the keys that are known there, and what was seen."""

    def __init__(self, port: int, seed: str, keys: list[str]) -> None:
        self.port = port
        self.chance = random.Random(seed)
        self.account = answers.Account()
        self._keys = keys

    def key(self) -> list[tuple[bytes, bytes]]:
        """Who asks: mostly the first of the keys."""
        if not self._keys:
            return []
        kind = self.chance.random()
        if kind < 0.02:
            return [(b"authorization", self.chance.choice((b"Bearer x", b"wl_", b"Basic Og==", b"\xff", b"a" * 700)))]
        if kind < 0.03:
            return []
        key = self._keys[0] if kind < 0.9 else self.chance.choice(self._keys)
        return [(b"x-api-key", key.encode())]

    def fields(self, method: str, path: str) -> frames.Fields:
        """The pseudo-headers of a request."""
        return [
            (b":method", method.encode()),
            (b":scheme", b"http"),
            (b":path", path.encode("latin-1", "replace")),
            (b":authority", b"127.0.0.1"),
        ]


def heads(drive: Drive, count: int) -> None:
    """HTTP/1.1 requests of any shape, each on a connection of its own."""
    chance = drive.chance
    for _ in range(count):
        model = bodies.model(chance)
        media, body = bodies.body(chance, model)
        method, path = bodies.target(chance, model)
        lines = ["Host: 127.0.0.1"] if chance.random() < 0.9 else ["Host: a, b"]
        lines += [f"{name}: {value}" for name, value in bodies.lines(chance)]
        lines += [f"{name.decode()}: {value.decode('latin-1')}" for name, value in drive.key()]
        lines.append(f"Content-Type: {media}")
        lines += chance.sample(_FRAMING, chance.choice((0, 0, 0, 1, 2)))
        if chance.random() < 0.7:
            lines.append(f"Content-Length: {len(body)}")
        version = chance.choice(("HTTP/1.1",) * 8 + ("HTTP/1.0", "HTTP/2.0", "HTTP/9", ""))
        start = f"{method} {path} {version}"
        data = "\r\n".join((start, *lines)).encode("latin-1", "replace") + b"\r\n\r\n" + body
        if chance.random() < 0.2:
            at = chance.randrange(len(data))
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        told = _told(drive.port, data)
        told_as = list(_responses(told, b"HEAD" in data[:8]))
        problem = answers.leaks(told.decode("latin-1")) if any(status >= 400 for status, *_ in told_as) else None
        for status, headers, text in told_as[:1]:
            problem = problem or answers.http(status, headers, text, "/v2/" if b"/v" in data[:99] else "/", head=True)
        drive.account.note(str(told_as[0][0]) if told_as else "none", problem, data[:600])


_FRAMING = (
    "Content-Length: 5", "Content-Length: -5", "Content-Length: 99999999999", "Content-Length: 1e3",
    "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding : chunked", "Transfer-Encoding: \x0bchunked", "Connection: close", " folded", "no colon",
    "Connection: upgrade\r\nUpgrade: websocket", "Connection: upgrade\r\nUpgrade: h2c", "a: \x00", "a: b\nc: d",
)  # fmt: skip


def _told(port: int, data: bytes) -> bytes:
    found = b""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65_536):
                found += part
        except (ConnectionResetError, BrokenPipeError):
            pass
        except OSError as e:
            if e.errno != 107:
                raise
    return found


def _responses(told: bytes, no_bodies: bool = False) -> Iterator[tuple[int, dict[str, str], bytes]]:
    at = 0
    while (found := _HEAD.match(told, at)) is not None:
        at = found.end()
        status = int(found[1])
        lines = (line.decode("latin-1").partition(": ") for line in found[2].split(b"\r\n") if line)
        headers = {name.lower(): value for name, _, value in lines}
        if status == 100:
            continue
        size = 0 if no_bodies else int(headers.get("content-length", 0))
        yield status, headers, told[at : at + size]
        at += size


def plain(drive: Drive, count: int) -> None:
    """Bodies of any shape in good HTTP/1.1 requests, many on one connection, answered in order."""
    chance, together = drive.chance, 40
    for _ in range(count // together):
        data, asked = b"", []
        for number in range(together):
            model = bodies.model(chance)
            media, body = bodies.body(chance, model)
            path = chance.choice(bodies.ASKING).format(model)
            lines = b"".join(b"%b: %b\r\n" % one for one in drive.key())
            lines += b"Connection: close\r\n" if number == together - 1 else b""
            start = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {media}\r\n".encode()
            data += start + lines + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            asked.append((path, body))
        found = list(_responses(_kept(drive.port, data)))
        if len(found) != together:
            drive.account.note("none", f"{len(found)} answers to {together} requests", data)
        for (path, body), (status, headers, text) in zip(asked, found, strict=False):
            drive.account.note(str(status), answers.http(status, headers, text, path), (path, body))


def _kept(port: int, data: bytes) -> bytes:
    """What is answered until the server closes; this side stays open, as it would be given up otherwise."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(data)
        while part := connection.recv(65_536):
            found += part
    return found


def rest(drive: Drive, count: int) -> None:
    """HTTP requests over HTTP/2."""
    chance = drive.chance

    def one() -> Asked:
        model = bodies.model(chance)
        media, body = bodies.body(chance, model)
        method, path = bodies.target(chance, model)
        fields = [*drive.fields(method, path), (b"content-type", media.encode())]
        if chance.random() < 0.15:
            encoding, body = bodies.packed(chance, body)
            fields.append((b"content-encoding", encoding.encode()))
        fields += [(name.encode(), value.encode("latin-1")) for name, value in bodies.lines(chance)]
        fields += drive.key()
        return path if method != "HEAD" else "HEAD", fields, body

    def check(answer: frames.Answer, path: str, asked: Any) -> None:
        if answer.reset is not None and not answer.status:
            drive.account.note(
                f"reset {answer.reset}", "a reset as if the server had failed" if answer.reset == 2 else None, asked
            )
            return
        if answer.headers.get("content-type") == "application/grpc":
            grpc_check(drive, answer, asked)
            return
        problem = answers.http(answer.status, answer.headers, answer.body, path, head=path == "HEAD")
        drive.account.note(str(answer.status), problem, asked)

    _many(drive, count, one, check)


def _many(drive: Drive, count: int, one: Callable[[], Asked], check: Callable[[frames.Answer, str, Any], None]) -> None:
    """Requests over HTTP/2, fifty at once, ten times on a connection."""
    left = count
    while left > 0:
        connection = frames.Connection(drive.port)
        for _ in range(10):
            asked = [(connection.stream(), *one()) for _ in range(min(50, left))]
            for number, _, fields, body in asked:
                connection.send(frames.request(drive.chance, number, fields, body))
            connection.wait()
            for number, path, fields, body in asked:
                answer = connection.answers.pop(number)
                if not answer.ended:
                    answer = _alone(drive, fields, body)
                if answer.ended:
                    check(answer, path, (fields, body[:400]))
                else:
                    drive.account.note("ended", None if answer.refused else "lost", (fields, body[:400]))
            left -= len(asked)
            if connection.closed or connection.goaway or left <= 0:
                break
        connection.close()


def _alone(drive: Drive, fields: frames.Fields, body: bytes) -> frames.Answer:
    """The answer to one of those behind a request that ended their connection, asked by itself."""
    connection = frames.Connection(drive.port)
    number = connection.stream()
    connection.send(frames.request(random.Random(0), number, fields, body))
    connection.wait()
    answer = connection.answers[number]
    # The server may end a connection for a reason that it says, but not for a fault of its own.
    answer.refused = connection.goaway is not None and connection.goaway[0] not in (0, 2)
    connection.close()
    return answer


def grpc_check(drive: Drive, answer: frames.Answer, asked: Any, *, many: bool = False) -> None:
    """The answer of one gRPC call; of a stream, each message is counted."""
    if answer.reset is not None and not answer.status:
        problem = "a reset as if the server had failed" if answer.reset == 2 else None
        drive.account.note(f"reset {answer.reset}", problem, asked)
        return
    messages, body = [], answer.body
    while len(body) >= 5:
        size = int.from_bytes(body[1:5], "big")
        if not body[0]:
            messages.append(body[5 : 5 + size])
        body = body[5 + size :]
    for message in messages if many else ():
        # The field error_message comes first in an answer that has one.
        drive.account.note("refused" if message[:1] == b"\x0a" else "answered", None, asked)
    trailers = answer.trailers or answer.headers
    problem = answers.grpc(answer.status, answer.headers, trailers, messages)
    drive.account.note(f"grpc {trailers.get('grpc-status')}", problem, asked)


def grpc(drive: Drive, count: int) -> None:
    """gRPC calls with one message."""
    chance = drive.chance

    def one() -> Asked:
        path, message = calls.unary(chance)
        data, encoding = calls.framed(chance, message)
        fields = [*drive.fields("POST", path), (b"content-type", b"application/grpc"), (b"te", b"trailers")]
        if encoding:
            fields.append((b"grpc-encoding", encoding))
        fields += calls.metadata(chance) + drive.key()
        return path, fields, data

    _many(drive, count, one, lambda answer, path, asked: grpc_check(drive, answer, asked))


def stream(drive: Drive, count: int) -> None:
    """gRPC streams of up to forty messages each."""
    chance = drive.chance
    path = calls.SERVICE + "ModelStreamInfer"
    left = [count]

    def one() -> Asked:
        fields = [*drive.fields("POST", path), (b"content-type", b"application/grpc"), *drive.key()]
        data = b""
        for _ in range(min(chance.randrange(1, 40), left[0])):
            left[0] -= 1
            message = calls.infer(chance)
            if chance.random() < 0.01:
                message, _ = calls.framed(chance, message)
                data += message
            else:
                data += struct.pack(">BI", 0, len(message)) + message
        return path, fields, data

    while left[0] > 0:
        _many(drive, 50, one, lambda answer, path, asked: grpc_check(drive, answer, asked, many=True))


def sequences(drive: Drive, count: int) -> None:
    """Frames in orders that nobody should send; behind them the server must say something, and close or go on."""
    chance = drive.chance
    for _ in range(count):
        fields = [*drive.fields("POST", "/v2/models/numbers/infer"), *drive.key()]
        data, _ = frames.sequence(chance, fields)
        hello = frames.HELLO if chance.random() < 0.93 else frames.HELLO[: chance.randrange(30)]
        connection = frames.Connection(drive.port, hello)
        connection.send(data)
        connection.send(frames.frame(frames.PING, 0, 0, bytes(8)))
        # A frame that no connection survives, so that there is an end to wait for.
        connection.send(frames.frame(frames.PING, 0, 0, bytes(3)) + b"\0" * 30)
        connection.wait_end(0.25)
        problem = None
        for answer in connection.answers.values():
            if answer.status:
                problem = problem or answers.http(answer.status, answer.headers, answer.body, "/v2/", head=True)
        code = connection.goaway[0] if connection.goaway else None
        if code == 2:
            problem = f"GOAWAY says that the server failed: {connection.goaway}"
        if connection.goaway and not problem:
            problem = answers.leaks(connection.goaway[1].decode("latin-1"))
        drive.account.note(f"goaway {code}", problem, data[:400].hex())
        connection.close()


KINDS: dict[str, Callable[[Drive, int], None]] = {
    "heads": heads,
    "plain": plain,
    "rest": rest,
    "grpc": grpc,
    "stream": stream,
    "sequences": sequences,
}


def main(port: str, kind: str, seed: str, count: str, keys: str = "") -> None:
    """Drive, and print the report."""
    drive = Drive(int(port), f"{kind}/{seed}", [key for key in keys.split(",") if key])
    KINDS[kind](drive, int(count))
    json.dump({"seen": drive.account.seen, "violations": drive.account.violations}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
