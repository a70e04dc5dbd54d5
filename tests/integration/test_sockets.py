"""Sockets that a server listens on: shut so that nobody who came in is lost, and open to nobody but their user."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import stat
from pathlib import Path

import pytest

from windlass import errors
from windlass.serving.transport import sockets


@pytest.mark.promise("P-41")
def test_who_knocks_at_a_shut_door_is_refused_and_who_was_inside_is_served() -> None:
    listening = sockets.listen("127.0.0.1:0")
    place = listening.getsockname()
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(listening.dup())
        inside, late = (stack.enter_context(socket.socket()) for _ in range(2))
        inside.connect(place)
        sockets.shut(listening)
        late.setblocking(False)
        with pytest.raises(BlockingIOError):
            late.connect(place)
        # A worker takes what waits: it was there before the door was shut.
        taken, _ = worker.accept()
        stack.enter_context(taken)
        taken.sendall(b"served")
        assert inside.recv(10) == b"served"
        with pytest.raises(BlockingIOError):
            worker.accept()
        worker.close()
        # It knocks again by itself, and finds that nobody is there.
        assert select.select([], [late], [], 10)[1]
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_an_address_that_is_taken_is_told() -> None:
    with sockets.listen("127.0.0.1:0") as first:
        port = first.getsockname()[1]
        assert sockets.url(first, "https") == f"https://127.0.0.1:{port}"
        with pytest.raises(errors.Unavailable, match="cannot listen"):
            sockets.listen(f"127.0.0.1:{port}")


def test_only_its_user_opens_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "control"
    for _ in range(2):
        # The second time over what the first left behind.
        with sockets.listen_unix(str(path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
