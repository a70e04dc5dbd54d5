"""gRPC calls with something wrong in them: messages field by field, their framing, their metadata.

Used by `drive.py`; all is drawn from the `Random` that is given. Messages are written by hand, so that they can be
what no library would write.
"""

from __future__ import annotations

import gzip
import random
import struct
import zlib

from bodies import MODELS, cut
from bodies import model as some_model

SERVICE = "/inference.GRPCInferenceService/"
# Every other method with the field numbers that its request has.
CONTROL = (
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics",
    "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings",
    "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister",
)  # fmt: skip
DATATYPES = ("FP32", "FP32", "FP32", "FP64", "BYTES", "BOOL", "INT8", "UINT64", "FP16", "BF16", "", "x" * 400, "fp32")
SIZES = (0, 1, 2, 3, 4, 5, 64, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)
TEXTS = (
    b"",
    b"x",
    b"y",
    b"\xff\xfe",
    b"\0",
    b"a" * 2_000,
    b"../..",
    b"a\r\nb",
    "é".encode(),
    b"\xed\xa0\x80",
    b"numbers",
)
FLOATS = struct.pack("<4f", 1, 2, 3, 4)
RAW = (FLOATS, FLOATS * 2, FLOATS[:-1], b"", struct.pack("<4f", *[float("nan")] * 4), b"\xff" * 16, bytes(4), bytes(64))
TIMES = (b"1S", b"50m", b"1n", b"0S", b"99999999H", b"999999999S", b"-1S", b"1", b"S", b"1 S", b"", b"1.5S")


def varint(value: int) -> bytes:
    """A whole number, as it goes on the wire."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, data: bytes, kind: int = 2) -> bytes:
    """A field; with kind 2 behind its length."""
    return varint(number << 3 | kind) + (varint(len(data)) if kind == 2 else b"") + data


def _parameter(chance: random.Random) -> bytes:
    name = chance.choice((b"timeout", b"priority", b"sequence_id", b"binary_data_output", b"classification", b"", b"a"))
    if chance.random() < 0.1:
        name = chance.choice((b"shared_memory_region", b"sequence_start", b"headers"))
    value = chance.choice(
        (
            field(1, b"\1", 0),
            field(2, varint(chance.choice(SIZES)), 0),
            field(3, chance.choice(TEXTS)),
            field(4, struct.pack("<d", chance.choice((0.0, -1.0, float("nan"), 1e308))), 1),
            field(5, varint(chance.choice(SIZES)), 0),
            b"",
        )
    )
    return field(1, name) + field(2, value)


def _contents(chance: random.Random) -> bytes:
    number = chance.randrange(1, 10)
    if chance.random() < 0.4:
        return field(6, FLOATS)
    if number == 8:
        return b"".join(field(8, chance.choice(TEXTS)) for _ in range(chance.randrange(6)))
    if chance.random() < 0.5:
        return field(number, chance.choice((FLOATS, b"", b"\1\2\3\4", b"\xff" * 9, bytes(300))))
    return b"".join(field(number, b"\1", 0) for _ in range(4))


def _input(chance: random.Random, *, raw: bool) -> bytes:
    sizes = [1, 4] if chance.random() < 0.7 else [chance.choice(SIZES) for _ in range(chance.choice((0, 1, 2, 3, 40)))]
    shape = b"".join(varint(size) for size in sizes)
    parts = [
        field(1, b"x" if chance.random() < 0.85 else chance.choice(TEXTS)),
        field(2, chance.choice(DATATYPES).encode()),
        field(3, shape) if chance.random() < 0.9 else b"".join(field(3, varint(size), 0) for size in sizes),
    ]
    if chance.random() < 0.15:
        parts.append(field(4, _parameter(chance)))
    if not raw or chance.random() < 0.05:
        parts.append(field(5, _contents(chance)))
    return b"".join(_disturbed(parts, chance))


def _disturbed(parts: list[bytes], chance: random.Random) -> list[bytes]:
    """Fields in another order, doubled, left out, or with one between them that nobody knows."""
    if chance.random() < 0.75:
        return parts
    step = chance.randrange(6)
    at = chance.randrange(len(parts) + 1)
    if step == 0:
        chance.shuffle(parts)
    elif step == 1 and parts:
        parts.insert(at, chance.choice(parts))
    elif step == 2 and at < len(parts):
        del parts[at]
    elif step == 3:
        parts.insert(at, field(chance.choice((0, 9, 100, 2**29 - 1)), chance.choice(TEXTS)))
    elif step == 4:
        parts.insert(at, field(chance.randrange(8), b"\1", chance.choice((0, 1, 3, 4, 5, 6, 7))))
    else:
        parts.insert(at, b"\x1b" * 200)
    return parts


def infer(chance: random.Random) -> bytes:
    """A ModelInferRequest."""
    raw = chance.random() < 0.7
    count = 1 if chance.random() < 0.85 else chance.randrange(5)
    parts = [field(1, some_model(chance).encode() if chance.random() < 0.95 else chance.choice(TEXTS))]
    if chance.random() < 0.2:
        parts.append(field(2, chance.choice((b"1", b"2", b"9", b"new", b"\xff"))))
    if chance.random() < 0.4:
        parts.append(field(3, chance.choice((b"id", *TEXTS))))
    if chance.random() < 0.15:
        parts.append(field(4, _parameter(chance)))
    parts += [field(5, _input(chance, raw=raw)) for _ in range(count)]
    if chance.random() < 0.3:
        parts.append(field(6, field(1, chance.choice((b"y", b"y", b"z", b"\xff"))) + field(2, _parameter(chance))))
    if raw:
        sized = count if chance.random() < 0.9 else chance.randrange(4)
        parts += [field(7, FLOATS if chance.random() < 0.6 else chance.choice(RAW)) for _ in range(sized)]
    message = b"".join(_disturbed(parts, chance))
    if chance.random() < 0.15:
        message = cut(message, chance)
    return message


def _control(chance: random.Random) -> tuple[str, bytes]:
    method = chance.choice(CONTROL)
    if method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        name, number = chance.choice((b"numbers", b"nope", b"\xff", b"a" * 999)), 2
    else:
        name, number = chance.choice((some_model(chance).encode(), *TEXTS)), 1
    if method in ("TraceSetting", "LogSettings"):
        setting = chance.choice((b"trace_level", b"log_info", b"log_file", b"x" * 99, b"\xff"))
        parts = [field(1, field(1, setting) + field(2, field(chance.choice((1, 2, 3)), chance.choice(TEXTS))))]
    else:
        parts = [field(number, name), field(2, chance.choice((b"1", b"7", b"")))] if chance.random() < 0.7 else []
    message = b"".join(_disturbed(parts, chance))
    return SERVICE + method, cut(message, chance) if message and chance.random() < 0.2 else message


def unary(chance: random.Random) -> tuple[str, bytes]:
    """A method and its message."""
    kind = chance.random()
    if kind < 0.75:
        return SERVICE + "ModelInfer", infer(chance)
    if kind < 0.92:
        return _control(chance)
    if kind < 0.96:
        return "/grpc.health.v1.Health/Check", field(1, chance.choice((*TEXTS, *(m.encode() for m in MODELS))))
    odd = chance.choice(("ModelInfe", "", "../ModelInfer", "modelinfer", "ModelInfer/", "ModelInfer%2f", "Model;Infer"))
    return chance.choice((SERVICE + odd, "//" + SERVICE, "/x/y", "/v2/models/numbers/infer", "/predict/table")), b""


def framed(chance: random.Random, message: bytes) -> tuple[bytes, bytes]:
    """A message behind its prefix, and what `grpc-encoding` says of it; sometimes one of them is wrong."""
    kind = chance.random()
    if kind < 0.8:
        return struct.pack(">BI", 0, len(message)) + message, b""
    if kind < 0.9:
        encoding = chance.choice((b"gzip", b"deflate", b"identity", b"snappy"))
        data = gzip.compress(message, 1) if encoding == b"gzip" else zlib.compress(message, 1)
        if chance.random() < 0.1:
            data = gzip.compress(bytes(20_000_000), 9) if chance.random() < 0.02 else cut(data, chance)
        return struct.pack(">BI", 1, len(data)) + data, encoding
    length = chance.choice((0, 1, len(message) + 1, max(0, len(message) - 1), 2**31, 2**32 - 1))
    return struct.pack(">BI", chance.choice((0, 1, 2, 255)), length) + message + b"\0" * chance.randrange(3), b""


def metadata(chance: random.Random) -> list[tuple[bytes, bytes]]:
    """Headers of a call besides the usual."""
    found = []
    if chance.random() < 0.1:
        found.append((b"grpc-timeout", chance.choice(TIMES)))
    if chance.random() < 0.05:
        found.append((b"grpc-accept-encoding", chance.choice((b"gzip", b"x" * 500, b"gzip,gzip,,"))))
    if chance.random() < 0.05:
        found.append((b"x-bin", b"!!!!"))
    if chance.random() < 0.03:
        found.append((b"grpc-encoding", chance.choice((b"gzip", b"br", b"\x01", b""))))
    if chance.random() < 0.05:
        found.append((b"x-windlass-arm", chance.choice((b"1", b"2", b"new", b"zz"))))
    return found
