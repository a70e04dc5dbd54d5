"""Addresses to listen on, as text: `host:port`, and whether only this machine can reach them.

Used by the worker and by the CLI, which refuses exposure before anything starts. Must never look a name up.
"""

from __future__ import annotations

import ipaddress

from windlass import errors


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def split(address: str) -> tuple[str, int]:
    """`host:port` as its parts; `UsageError` if it is not that."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise errors.UsageError(f"'{address[:100]}' is no address: write host:port, for example 127.0.0.1:8000")
    return host.strip("[]"), int(port)
