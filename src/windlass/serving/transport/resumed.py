"""Callbacks of a parser that reads the body of a request whose headers another parser read.

llhttp takes the body of a request that offers to upgrade for the new protocol's bytes. The offer is not taken, so a
connection gives a fresh parser a head with the same framing, of which nothing is heard, and then the body.
Must never let that head through as a request.
"""

from __future__ import annotations

from typing import Protocol


class Callbacks(Protocol):
    """What httptools calls."""

    def on_message_begin(self) -> None: ...

    def on_url(self, url: bytes) -> None: ...

    def on_header(self, name: bytes, value: bytes) -> None: ...

    def on_headers_complete(self) -> None: ...

    def on_body(self, body: bytes) -> None: ...

    def on_message_complete(self) -> None: ...


class Resumed:
    """Silent until the first headers are complete, then whatever `below` does."""

    def __init__(self, below: Callbacks) -> None:
        self.on_body = below.on_body
        self.on_message_complete = below.on_message_complete
        self._below = below
        self._heard = False

    def on_message_begin(self) -> None:
        if self._heard:
            self._below.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._heard:
            self._below.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._heard:
            self._below.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._heard:
            self._below.on_headers_complete()
        self._heard = True
