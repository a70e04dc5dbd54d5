"""A worker's process from its start until it is told its place: first of all, before anything slow is imported.

Used by the server's program, whose first worker imports its libraries while the supervisor imports its own, and by the
fleet for every other worker. Must never import what takes time, nor pass a worker more than it was started for.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys

# What a worker is told first, with the descriptors of what all workers share: its place, and whether it is quiet.
_PLACE = struct.Struct("<I?")
_SHARED = 3


DETACHED = "--detached"


def detach() -> None:
    """Go on in a session of one's own, as nobody's child, if the command line says so; before any thread is begun."""
    if DETACHED in sys.argv:
        if os.fork():
            os._exit(0)
        os.setsid()


class Starting:
    """A process that waits to be told its place. `socket` is our end of its channel."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            line = [sys.executable, "-m", "windlass.serving.worker"]
            self.process = subprocess.Popen(
                [*line, "--channel", str(theirs.fileno()), "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )

    def tell(self, place: int, descriptors: tuple[int, int, int], *, quiet: bool) -> None:
        """Its place, and what all workers share: the listening socket, the board, the counters."""
        socket.send_fds(self.socket, [_PLACE.pack(place, quiet)], descriptors)


def told(channel: socket.socket) -> tuple[int, bool, list[int]] | None:
    """The worker's side: its place, whether it is quiet, and the descriptors; None if nobody is there to tell it."""
    data, descriptors, _, _ = socket.recv_fds(channel, _PLACE.size, _SHARED)
    if len(data) != _PLACE.size or len(descriptors) != _SHARED:
        return None
    place, quiet = _PLACE.unpack(data)
    return place, quiet, descriptors
