"""The sockets that a server listens on: made before anything else starts, and shut so that nobody who came in is lost.

Used by the supervisor and its fleet. Must never listen on an address other than the one that was asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from pathlib import Path

from windlass import errors
from windlass.serving.transport import addresses

BACKLOG = 1_024
_SO_ATTACH_FILTER = 26
# One instruction for the kernel's packet filter: return 0, which is to keep nothing of the packet.
_DROP = struct.pack("HBBI", 0x06, 0, 0, 0)


def listen(address: str) -> socket.socket:
    """A socket that listens on `host:port` (0: any free one); `Unavailable` if it cannot."""
    host, port = addresses.split(address)
    sock: socket.socket | None = None
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)  # noqa: FBT003 - the library's signature
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
    except OSError as e:
        if sock is not None:
            sock.close()
        raise errors.Unavailable(
            f"cannot listen on {address}: {e.strerror or e}.", hint="Choose another port, or stop what uses it."
        ) from None
    return sock


def url(sock: socket.socket, scheme: str) -> str:
    """Where callers reach a socket."""
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def listen_unix(path: str) -> socket.socket:
    """A socket that only this user can open, made under a mask so that there is no moment when others could."""
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        unix.bind(path)
    finally:
        os.umask(mask)
    return unix


def shut(sock: socket.socket) -> None:
    """Let nobody else in: who knocks from now on knocks again, and is refused once every process has closed it.

    Without this a connection that is made between the last accept and the close would be reset.
    """
    program = ctypes.create_string_buffer(_DROP)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
    sock.close()
