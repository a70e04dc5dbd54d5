"""Searches for the request that costs most to read: `python worst_requests.py SIZE SECONDS SEED`, prints JSON lines.

Started by `test_worst_request.py`. First every known hard case of SIZE bytes, then changes of the hardest for SECONDS.
A line has the case, the CPU seconds and the bytes of memory that reading it took at its peak. Must never ask a model:
what a run costs is the model's own.
"""

from __future__ import annotations

import ctypes
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from windlass import errors
from windlass.protocols import base, oip_grpc, oip_rest, plain, tfserving
from windlass.protocols.pb import wire
from windlass.types import contract, directory, fields, manifest, signature, tensor

LIBC = ctypes.CDLL(None)


class Case(NamedTuple):
    """A body: what stands before, the part that is repeated as often as SIZE allows, what stands behind.

    `COUNT` in what stands before becomes the number of parts.
    """

    name: str
    how: str
    model: str
    before: bytes
    part: bytes
    behind: bytes
    between: bytes = b","


class Bare:
    """No transforms."""

    fields: tuple[fields.Field, ...] = ()
    media: tuple[str, ...] = ()
    inline_bytes = 1 << 62

    def prepare(self, columns: fields.Columns) -> tensor.Tensors:
        return columns

    def finish(self, outputs: tensor.Tensors, inputs: tensor.Tensors) -> fields.Columns:
        return outputs


def view(datatype: str, *sizes: int | str) -> directory.ModelView:
    """A model of one input with the limits that a package has by default."""
    limits = manifest.Limits()
    declared = signature.Signature(
        (signature.TensorSpec("x", datatype, ("batch", *sizes)),),
        (signature.TensorSpec("y", datatype, ("batch", *sizes)),),
    )
    checked = contract.Contract(declared, max_rows=limits.max_batch, max_elements=limits.max_elements)
    return directory.ModelView(
        "m", "1", ("1",), "echo", declared, checked, limits, Bare(), (), lambda call: None, directory.Lease()
    )


MODELS = {"rows": view("FP32", 4), "free": view("INT64", "n"), "texts": view("BYTES", "n"), "small": view("UINT8", "n")}


def _head(media: str) -> base.Head:
    return base.Head("POST", "/", "", {b"content-type": media.encode()})


HOW: dict[str, Callable[[bytes, directory.ModelView], Any]] = {
    "rest": lambda body, model: oip_rest.decode(_head("application/json"), {}, body, model),
    "grpc": lambda body, model: oip_grpc.decode(_head("application/grpc"), {}, body, model),
    "plain": lambda body, model: plain.decode(_head("application/json"), {}, body, model),
    "csv": lambda body, model: plain.decode(_head("text/csv"), {}, body, model),
    "tfserving": lambda body, model: tfserving.predict(_head("application/json"), {"verb": "predict"}, body, model),
}


def _rest(datatype: str, opening: str = "[") -> bytes:
    return b'{"inputs":[{"name":"x","shape":[1,COUNT],"datatype":"%b","data":%b' % (datatype.encode(), opening.encode())


_ROW = b'{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}'
_NAMED = wire.field(1, b"m")
# Of gRPC: `before` is written in front of the input's other fields, and `part` is repeated in the place it names.
CASES = (
    Case("many numbers", "rest", "free", _rest("INT64"), b"1", b"]}]}"),
    Case("many numbers, nested", "rest", "free", _rest("INT64", "[["), b"1", b"]]}]}"),
    Case("long numbers", "rest", "small", _rest("UINT8"), b"000000000000000000001", b"]}]}"),
    Case("many texts", "rest", "texts", _rest("BYTES"), b'""', b"]}]}"),
    Case("texts that look like keys", "rest", "texts", _rest("BYTES"), b'"a:"', b"]}]}"),
    Case("escaped texts", "rest", "texts", _rest("BYTES"), b'"\\u0041"', b"]}]}"),
    Case("parameters", "rest", "rows", b'{"inputs":[%b],"parameters":{' % _ROW, b'"%06x":1', b"}}"),
    Case("inputs", "rest", "rows", b'{"inputs":[', b'{"name":"x","datatype":"FP32","shape":[0],"data":[]}', b"]}"),
    Case("outputs", "rest", "rows", b'{"inputs":[%b],"outputs":[' % _ROW, b'{"name":"y"}', b"]}"),
    Case("depth", "rest", "free", b"", b"[", b"", b""),
    Case("a number without end", "rest", "rows", _rest("FP32") + b"0.", b"1", b"]}]}", b""),
    Case("columns", "plain", "rows", b"{", b'"%06x":1', b"}"),
    Case("rows", "plain", "rows", b"[", b'{"x":1}', b"]"),
    Case("lists", "plain", "free", b"[", b"[]", b"]"),
    Case("texts by rows", "plain", "texts", b"[[", b'""', b"]]"),
    Case("encoded texts", "plain", "texts", b"[[", b'{"b64":""}', b"]]"),
    Case("instances", "tfserving", "rows", b'{"instances":[', b'{"x":1}', b"]}"),
    Case("encoded instances", "tfserving", "texts", b'{"instances":[[', b'{"b64":""}', b"]]}"),
    Case("header", "csv", "rows", b"", b"a", b""),
    Case("lines", "csv", "rows", b"a\n", b"1\n", b"", b""),
    Case("cells", "csv", "rows", b"a\n", b'"1"', b"\n"),
    Case("shape", "grpc", "rows", b"FP32", b"\x01", b"shape", b""),
    Case("packed", "grpc", "free", b"INT64", b"\x01", b"packed", b""),
    Case("unpacked", "grpc", "free", b"INT64", b"\x18\x01", b"contents", b""),
    Case("bytes", "grpc", "texts", b"BYTES", b"\x42\x00", b"contents", b""),
    Case("parameters", "grpc", "rows", b"FP32", b"\x22\x00", b"fields", b""),
    Case("unknown", "grpc", "rows", b"FP32", b"\x4a\x00", b"fields", b""),
    Case("raw bytes", "grpc", "texts", b"BYTES", bytes(4), b"raw", b""),
    Case("groups", "grpc", "rows", b"FP32", b"\x9b\x06", b"fields", b""),
)
TOKENS = (b"1", b"0", b'"', b"[", b"]", b"{", b"}", b",", b":", b"\\u0000", b"e9", b".5", b"null", b'""', b" ", b"-")


def body(case: Case, size: int) -> bytes:
    """The bytes of a case."""
    count = max(1, (size - len(case.before) - len(case.behind)) // (len(case.part) + len(case.between)))
    if case.how == "grpc":
        return _message(case, count)
    numbered = b"%0" in case.part
    parts = (case.part % i for i in range(count)) if numbered else [case.part] * count
    return case.before.replace(b"COUNT", b"%d" % count) + case.between.join(parts) + case.behind


def _message(case: Case, count: int) -> bytes:
    data = case.part * count
    parts = [wire.field(1, b"x"), wire.field(2, case.before)]
    shape = wire.field(3, b"\x01" + wire.varint(count))
    inside = {
        b"shape": [wire.field(3, data)],
        b"packed": [shape, wire.field(5, wire.field(3, data))],
        b"contents": [shape, wire.field(5, data)],
        b"fields": [data],
        b"raw": [shape],
    }[case.behind]
    message = _NAMED + wire.field(5, b"".join(parts + inside))
    return message + wire.field(7, data) if case.behind == b"raw" else message


def _memory(line: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(one.split()[1]) << 10 for one in text.splitlines() if one.startswith(line))


def cost(case: Case, size: int) -> dict[str, Any]:
    """What reading a case takes, beyond the body itself."""
    data, model, how = body(case, size), MODELS[case.model], HOW[case.how]
    LIBC.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, started = _memory("VmRSS"), time.process_time()
    outcome: Any = "accepted"
    try:
        found: Any = how(data, model)
        if isinstance(found, base.Later):
            found = found.work()
        del found
    except errors.WindlassError as e:
        outcome = "refused" if len(str(e)) < 1_000 else "refused at length"
    cpu = time.process_time() - started
    name = f"{case.how} {case.name}"
    return {"case": name, "size": len(data), "cpu": cpu, "memory": _memory("VmHWM") - before, "outcome": outcome}


def changed(case: Case, chance: random.Random) -> Case:
    """The case with its repeated part a little different."""
    part = case.part
    at = chance.randrange(len(part) + 1)
    if case.how == "grpc":
        piece = bytes((chance.choice((0, 1, 2, 8, 0x22, 0x2A, 0x42, 0x7F, 0x80, 0xFF)),))
    else:
        piece = chance.choice(TOKENS)
    part = part[:at] + piece + part[at + chance.randrange(2) :] if chance.random() < 0.7 else part[:at] + part[at + 1 :]
    return case._replace(part=part.replace(b"%", b"1") or b"1", name=f"{case.name} {part[:40]!r}")


def main(size: int, seconds: float, seed: int) -> None:
    """Every case, then a climb from the hardest of them."""
    for case in CASES:
        body(case, 2_000)
        cost(case, 20_000)
    found = [(cost(case, size), case) for case in CASES]
    for one, _ in found:
        sys.stdout.write(json.dumps(one) + "\n")
    chance, until = random.Random(seed), time.monotonic() + seconds
    for measure in ("cpu", "memory"):
        best, held = max(found, key=lambda one: one[0][measure])
        stop = time.monotonic() + max(0.0, until - time.monotonic()) / (2 if measure == "cpu" else 1)
        pool = sorted(found, key=lambda one: -one[0][measure])[:8]
        while time.monotonic() < stop:
            start = held if chance.random() < 0.5 else chance.choice(pool)[1]
            tried = changed(start, chance)
            got = cost(tried, size)
            if got[measure] > best[measure]:
                best, held = got, tried
        sys.stdout.write(json.dumps({**best, "climbed": measure}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
