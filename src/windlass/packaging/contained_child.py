"""The child's side of `contained.py`: loads one model, then answers request after request until nobody asks.

Started by `security/confine.py` with the walls up. Must never be imported by a process that serves.
"""

from __future__ import annotations

import mmap
import os
import sys

import msgspec

from windlass import errors, plugins
from windlass.packaging import contained
from windlass.runtimes import base
from windlass.types import tensor_codec


def main(argument: str) -> None:
    """Load, say so, and serve; ends when the other side closes its pipe."""
    start = msgspec.json.decode(argument, type=contained.Start)
    try:
        runtime: type[base.Runtime] = plugins.load("runtimes", start.runtime)
        files = {name: _contents(fd, size) for name, (fd, size) in start.files.items()}
        model = runtime.load(files, base.Options(threads=start.threads, optimize=start.optimize))
    except errors.WindlassError as e:
        _fail(start, e)
        return
    _tell(start, contained.READY, msgspec.json.encode(contained.Described(model.inputs, model.outputs)))
    requests = memoryview(mmap.mmap(start.requests, contained.ROOM, mmap.MAP_SHARED, mmap.PROT_READ))
    while asked := os.read(start.asked, contained.LENGTH.size):
        (length,) = contained.LENGTH.unpack(asked)
        try:
            answer = tensor_codec.pack(model.run(tensor_codec.unpack(requests[:length])))
        except errors.WindlassError as e:
            _fail(start, e)
        else:
            _tell(start, contained.ANSWER, answer)


def _contents(descriptor: int, size: int) -> memoryview:
    """The file, mapped: its pages are those that the other side wrote."""
    return memoryview(mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ)) if size else memoryview(b"")


def _fail(start: contained.Start, error: errors.WindlassError) -> None:
    _tell(start, contained.FAILED, msgspec.json.encode(contained.Failure(error.code, error.message)))


def _tell(start: contained.Start, kind: bytes, data: bytes) -> None:
    if len(data) > contained.ROOM:
        kind, data = contained.FAILED, b'{"code":"internal","message":"the answer is too large"}'
    done = 0
    while done < len(data):
        done += os.pwrite(start.answers, data[done:], done)
    os.write(start.told, contained.HEAD.pack(kind, len(data)))


if __name__ == "__main__":
    main(sys.argv[1])
