"""A model is asked by its name and no other spelling of it: what looks like a path in it is only a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
ODD = (
    "m%2f", "%2fm", "m%2f..%2fm", "..%2fm", ".%2fm", "m%5c", "m%00", "%00m", "m%0d%0a", "m%20", "m;x", "m;x=1", "M",
    "%256d", "m%c2%a0", "%ef%bd%8d", "m%cc%81", "m%e2%80%8b", "m%ff", "%", "m%", "m%2", "m%zz", "m%u002f", "*", "[m]",
    "..", ".", "%2e%2e", "other%2f..%2fm", "other/../m", "./m", "m/.", "m/..", "m/../m", "m#/x", "m:", "m:x", "m.",
)  # fmt: skip


def ask(server: Any, name: str) -> int:
    written = server.ask(f"POST /echo/{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\n1".encode())
    return int(written.split()[1])


@pytest.mark.threat("V4")
@pytest.mark.parametrize("name", ODD)
def test_no_other_spelling_reaches_a_model(make_server: Make, name: str) -> None:
    server = make_server()
    assert ask(server, name) in (400, 404)
    assert ask(server, "m") == 200
    server.check_settled()


def test_the_same_name_may_be_percent_encoded(make_server: Make) -> None:
    assert [ask(make_server(), name) for name in ("m", "%6d", "%6D", "m/", "m//", "m?x")] == [200] * 6
