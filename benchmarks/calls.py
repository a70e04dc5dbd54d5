"""gRPC as it is measured: one raw-tensor request, asked once to see that it is right, then sent by h2load.

Called by `bench.py`. h2load (of nghttp2) knows HTTP/2 and nothing of gRPC: a call that failed has status 200 all the
same, so the bytes of all answers are compared with those of the right one.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import urllib.parse
from pathlib import Path

import grpc
import load
import numpy as np
from tritonclient.grpc import service_pb2

PATH = "/inference.GRPCInferenceService/ModelInfer"
_HEADERS = {"content-type": "application/grpc", "te": "trailers"}
_PREFIX = 5
_NOT_YET = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)


def request(model: str, rows: dict[str, np.ndarray]) -> load.Request:
    """A ModelInferRequest with raw contents, behind the five bytes of a gRPC message."""
    message = service_pb2.ModelInferRequest(model_name=model)
    for name, value in rows.items():
        message.inputs.add(name=name, datatype=load.DATATYPES[str(value.dtype)], shape=value.shape)
        message.raw_input_contents.append(value.tobytes())
    data = message.SerializeToString()
    return load.Request(b"\0" + len(data).to_bytes(4, "big") + data, _HEADERS)


def _answer(url: str, asked: load.Request) -> bytes:
    """Send it once by grpcio's client, which knows what status 0 is; the answer's message."""
    own = [(name, value) for name, value in asked.headers.items() if name not in _HEADERS]
    with grpc.insecure_channel(urllib.parse.urlsplit(url).netloc) as channel:
        call = channel.unary_unary(PATH, request_serializer=None, response_deserializer=None)
        try:
            return bytes(call(asked.body[_PREFIX:], metadata=own, timeout=30))
        except grpc.RpcError as e:
            if e.code() in _NOT_YET:
                raise ConnectionError(e.details()) from None
            raise SystemExit(f"benchmarks: {url} answers {e.code()}: {e.details()}") from None


def ask(url: str, asked: load.Request) -> np.ndarray:
    """The first output of one answer, flat, as float32."""
    message = service_pb2.ModelInferResponse.FromString(_answer(url, asked))
    return np.frombuffer(message.raw_output_contents[0], np.float32)


def h2load(url: str, asked: load.Request, streams: int, seconds: float) -> dict[str, float]:
    """One connection with `streams` calls always under way; h2load's own counts and the times of all calls."""
    length = _PREFIX + len(_answer(url, asked))
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(asked.body)
        headers = [part for name, value in asked.headers.items() for part in ("-H", f"{name}: {value}")]
        loop = ["-t1", "-c1", f"-m{streams}", f"-D{max(1, round(seconds))}"]
        done = subprocess.run(
            ["taskset", "-c", str(load.LOAD_CORE), "h2load", *loop, f"-d{body}", f"--log-file={log}", *headers, url],
            capture_output=True,
            text=True,
            check=True,
        )
        times = np.loadtxt(log, dtype=np.int64, usecols=2, delimiter="\t", ndmin=1)
    finished, answers, _, errors = _told(r"finished in ([\d.]+)(m?s)", done.stdout), *_counts(done.stdout)
    received = int(_told(r"\((\d+)\) data", done.stdout)[0])
    wrong = max(0, answers - received // length)
    return {
        "requests": answers,
        "duration_us": float(finished[0]) * (1e6 if finished[1] == "s" else 1e3),
        "p50_us": float(np.percentile(times, 50)),
        "p99_us": float(np.percentile(times, 99)),
        "errors": errors + wrong,
    }


def _counts(text: str) -> tuple[int, int, int]:
    """Calls that were done, those that succeeded, and those that h2load counts as failed or broken."""
    names = ("done", "succeeded", "failed", "errored", "timeout")
    done, succeeded, *bad = (int(_told(rf"(\d+) {name}", text)[0]) for name in names)
    return done, succeeded, sum(bad)


def _told(pattern: str, text: str) -> tuple[str, ...]:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"benchmarks: h2load said nothing of {pattern}: {text[-500:]}")
    return found.groups()
