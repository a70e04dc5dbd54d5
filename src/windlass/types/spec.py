"""The serving spec: all that the data plane is told.

Written by the CLI (later by the controller), read by serving. Must never hold a reference that needs a registry to
understand it: every arm carries the digest and the place of its bytes.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One version behind an endpoint. Its package is a file or folder at `path`, or lies in the blob store at `store`.

    `version` is what callers see; `ref` is what the operator asked for, so that a moved alias finds its followers.
    """

    digest: str
    version: str
    path: str = ""
    store: str = ""
    ref: str = ""


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A name in a URL, and what answers it. Limits of 0 mean the package's own or the server's default.

    `placement` fixes where a run happens; `auto` measures. `max_queue_delay_ms` 0 never waits for a fuller batch.
    """

    name: str
    arms: tuple[Arm, ...]
    max_batch: int = 0
    max_queue: int = 0
    max_queue_delay_ms: float = 0.0
    timeout_ms: int = 0
    placement: Literal["auto", "inline", "thread"] = "auto"
    threads: int = 0


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An API key: only its HMAC-SHA256 (hex), never the secret. `scopes` are permissions, `models` name globs."""

    id: str
    hmac: str
    scopes: tuple[str, ...] = ("model:read", "model:predict")
    models: tuple[str, ...] = ("*",)
    expires_at: float | None = None


class ServerLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits that hold before anything is parsed. Times in seconds, sizes in bytes."""

    max_connections: int = 10_000
    max_header_bytes: int = 16_384
    max_headers: int = 100
    max_body: int = 67_108_864
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    min_body_rate: int = 1_024
    keepalive_timeout_s: float = 75.0
    max_in_flight: int = 4_096
    max_pending_bytes: int = 1_073_741_824


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one server runs. A higher `generation` replaces a lower one; the others are ignored.

    `listen` and `admin` are `host:port` (port 0: any free one); `control` is the path of a unix socket.
    `repository` are models that clients may load and unload by name, unless the spec is managed.
    `hosts` are the Host names that are answered ("*" any). `verdicts` is a folder where probation remembers.
    """

    endpoints: tuple[Endpoint, ...]
    generation: int = 1
    listen: str = "127.0.0.1:8000"
    admin: str = "127.0.0.1:8001"
    control: str = ""
    verdicts: str = ""
    repository: tuple[Endpoint, ...] = ()
    keys: tuple[Key, ...] = ()
    key_pepper: str = ""
    hosts: tuple[str, ...] = ()
    limits: ServerLimits = ServerLimits()
    managed: bool = False
    access_log: bool = False
    pre_stop_s: float = 0.0
    grace_s: float = 30.0
