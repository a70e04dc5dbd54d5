"""Requests of the HTTP protocols with something wrong in them: paths, headers, documents, tables, pictures, texts.

Used by the other files of this folder; all is drawn from the `Random` that is given.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import zlib
from typing import Any

from PIL import Image

MODELS = ("numbers", "mixed", "table", "image", "text", "arms", "code", "spare", "nope")
_OFTEN = ("numbers", "numbers", *(one for one in MODELS if one != "code"))
ROW = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
MIXED = {
    "inputs": [
        {"name": "b", "shape": [1, 2], "datatype": "BYTES", "data": ["é", ""]},
        {"name": "i", "shape": [1, 3], "datatype": "INT8", "data": [1, -128, 127]},
        {"name": "t", "shape": [1, 1], "datatype": "BOOL", "data": [True]},
        {"name": "h", "shape": [1, 2], "datatype": "FP16", "data": [0.5, 65504]},
        {"name": "u", "shape": [1, 1], "datatype": "UINT64", "data": [2**64 - 1]},
    ]
}
TABLE = {"age": [1.5, None], "kind": ["a", None]}
SEEDS: dict[str, tuple[Any, ...]] = {
    "numbers": (
        {
            "inputs": [ROW],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
            "parameters": {"timeout": 1},
        },
        {"inputs": {"x": [[1, 2, 3, 4]]}},
        {"instances": [[1, 2, 3, 4]], "signature_name": "serving_default"},
        {"inputs": [ROW], "id": "a", "outputs": [{"name": "y", "parameters": {"classification": 2}}]},
        {"x": [[1, 2, 3, 4]]},
        [[1, 2, 3, 4]],
    ),
    "mixed": (
        MIXED,
        {"b": ["a", "b"], "i": [1, 2, 3], "t": [True], "h": [1, 2], "u": [1]},
        {"instances": [{"b": ["a", {"b64": "AA=="}], "i": [1, 2, 3], "t": [True], "h": [1, 2], "u": [1]}]},
    ),
    "table": (TABLE, [{"age": 1, "kind": "a"}, {"age": None}], {"inputs": [{**ROW, "shape": [1, 2], "data": [1, 2]}]}),
    "image": ({"image": {"b64": "iVBORw0KGgo="}}, [{"image": {"b64": ""}}], {"instances": [{"b64": "AAAA"}]}),
    "text": (
        {"text": "the quick brown"},
        {"text": ["the", "quick brown"]},
        [{"text": "\u2028"}],
        {"inputs": [{"name": "input_ids", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}]},
    ),
}
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 2**64, 10**400, 1e308, "", "x", "\0", "\ud800", [], {}, [[]], [None], {"": None},
    [[1, [2]]], "FP64", "BYTES", [1] * 300, "a" * 5_000, {"b64": "!!"}, {"binary_data_size": -1},
    {"binary_data_size": 2**63}, "a\r\nb: c", "%2e%2e%2f", "../../x", [2**62, 2**62], [0], [1] * 33, [-1],
    {"shared_memory_region": "a"}, {"sequence_id": 1}, {"timeout": 1}, {"priority": 9}, {"classification": 10**9},
)  # fmt: skip
KEYS = ("x", "inputs", "", "shape", "data", "b64", "parameters", "outputs", "id", "datatype", "model_name", "instances")
VERBS = ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "PATCH", "post", "CONNECT")
LINES = (
    ("content-encoding", "gzip"), ("content-encoding", "deflate"), ("content-encoding", "br"),
    ("accept-encoding", "gzip;q=, *"), ("accept-encoding", "gzip"), ("origin", "null"), ("origin", "http://evil"),
    ("authorization", "Bearer \xff"), ("x-api-key", "wl_0"), ("x-request-id", "z" * 200), ("x-request-id", "a b"),
    ("inference-header-content-length", "7"), ("inference-header-content-length", "0"),
    ("inference-header-content-length", "-0"), ("inference-header-content-length", "9" * 40),
    ("content-type", "text/csv"), ("content-type", "application/grpc"), ("content-type", "text/plain"),
    ("content-type", "image/png"), ("content-type", "application/json; charset=utf-16"), ("accept", "text/csv"),
    ("range", "bytes=0-"), ("cookie", "a=b"), ("x-windlass-arm", "new"), ("x-windlass-arm", "a" * 300),
    ("x-tenant", "gold"), ("x-user", "u" * 90), ("x-server-timing", "1"), ("traceparent", "00-" + "0" * 32),
    ("expect", "100-continue"), ("expect", "x"), ("x" * 3_000, "b"), ("x", "y" * 17_000),
)  # fmt: skip
PIECES = (b"", b"\0", b"\xff", b'"', b"[" * 40, b"{", b"NaN", b"1e999", b",", b"\xed\xa0\x80", b"9" * 400, b"[" * 9_000)
INSERTED = ("%", "%00", "%ff", "//", "/..", "?", "#", "%2f", "%2e%2e", ";", "\\", "%0d%0a", "*", "a" * 9_000, ":")


def _pictures() -> tuple[bytes, ...]:
    found = []
    for kind in ("PNG", "JPEG", "WEBP"):
        data = io.BytesIO()
        Image.new("RGB", (9, 7), (200, 30, 40)).save(data, kind)
        found.append(data.getvalue())
    return tuple(found)


PICTURES = _pictures()


def changed(value: Any, chance: random.Random) -> Any:
    """The value with one place in it replaced, removed, doubled or renamed."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        found = dict(value)
        key = chance.choice(list(found))
        step = chance.random()
        if step < 0.7:
            found[key] = changed(found[key], chance)
        elif step < 0.85:
            del found[key]
        else:
            found[chance.choice(KEYS)] = chance.choice(ODD)
        return found
    if isinstance(value, list) and value and chance.random() < 0.8:
        found_list = list(value)
        where = chance.randrange(len(found_list))
        found_list[where : where + 1] = chance.choice(
            ([changed(found_list[where], chance)], [], [found_list[where]] * 2, [chance.choice(ODD)])
        )
        return found_list
    return chance.choice(ODD)


def cut(data: bytes, chance: random.Random) -> bytes:
    """The bytes with a piece put in, taken out, or cut off."""
    at = chance.randrange(len(data) + 1)
    if chance.random() < 0.2:
        return data[:at]
    return data[:at] + chance.choice(PIECES) + data[at + chance.randrange(3) :]


def document(chance: random.Random, model: str) -> bytes:
    """JSON that was changed, sometimes with its bytes changed too."""
    value = chance.choice(SEEDS.get(model, SEEDS["numbers"]))
    if chance.random() < 0.7:
        value = changed(value, chance)
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    return cut(text, chance) if chance.random() < 0.15 else text


def body(chance: random.Random, model: str) -> tuple[str, bytes]:
    """A media type and a body."""
    kind = chance.random()
    if kind < 0.72:
        return "application/json", document(chance, model)
    if kind < 0.82:
        table = chance.choice(
            (b"age,kind\n1,a\n2,b\n", b"x1,x2,x3,x4\n1,2,3,4\n", b'"a\nb",kind\n1,"', b"\xef\xbb\xbfage\n")
        )
        return "text/csv", cut(table, chance)
    if kind < 0.9:
        picture = chance.choice(PICTURES)
        return chance.choice(("image/png", "image/webp", "image/jpeg")), cut(picture, chance)
    if kind < 0.95:
        return "text/plain", cut("the quick brown é".encode(), chance)
    return chance.choice(("", "a/b", "application/json", "multipart/form-data")), chance.randbytes(chance.randrange(99))


ASKING = (
    "/v2/models/{}/infer",
    "/v2/models/{}/versions/1/infer",
    "/predict/{}",
    "/predict/{}/1",
    "/v1/models/{}:predict",
)
TELLING = (
    "/v2/models/{}", "/v2/models/{}/config", "/v2/models/{}/ready", "/v2/models/{}/stats", "/v1/models/{}/metadata",
    "/v1/models/{}", "/v2/models/stats", "/v2/logging", "/v2/trace/setting", "/v2", "/", "/v2/health/ready",
    "/v2/systemsharedmemory/status", "/predict/{}",
)  # fmt: skip
DOING = (
    "/v2/repository/index", "/v2/repository/models/{}/load", "/v2/systemsharedmemory/region/a/register", "/v2/logging",
    "/v2/models/{}/versions/9/infer", "/v1/models/{}/versions/1:predict", "/v1/models/{}:classify", "/v2/trace/setting",
)  # fmt: skip


def target(chance: random.Random, model: str) -> tuple[str, str]:
    """A method and a path that belong together, mostly, sometimes with something put into the path."""
    kind = chance.random()
    method = "GET" if 0.75 <= kind < 0.88 else "POST"
    found = chance.choice(ASKING if kind < 0.75 else TELLING if kind < 0.88 else DOING).format(model)
    if chance.random() < 0.08:
        at = chance.randrange(len(found) + 1)
        found = found[:at] + chance.choice(INSERTED) + found[at:]
    return method if chance.random() < 0.95 else chance.choice(VERBS), found


def lines(chance: random.Random) -> list[tuple[str, str]]:
    """Headers that are odd; those that end a connection come seldom."""
    return chance.sample(LINES if chance.random() < 0.02 else LINES[:-2], chance.choice((0, 0, 1, 1, 2)))


def model(chance: random.Random) -> str:
    """A model's name; the one in a process of its own is slower than the others, so it is asked less."""
    return "code" if chance.random() < 0.01 else chance.choice(_OFTEN)


def packed(chance: random.Random, data: bytes) -> tuple[str, bytes]:
    """A body in a content encoding, sometimes not what it says, sometimes far larger inside."""
    if chance.random() < 0.02:
        data = bytes(30_000_000)
        return "gzip", _bomb(data)
    encoding = chance.choice(("gzip", "deflate"))
    done = gzip.compress(data, 1) if chance.random() < 0.5 else zlib.compress(data, 1)
    return encoding, cut(done, chance) if chance.random() < 0.4 else done


_bombs: dict[int, bytes] = {}


def _bomb(data: bytes) -> bytes:
    if len(data) not in _bombs:
        _bombs[len(data)] = gzip.compress(data, 9)
    return _bombs[len(data)]
