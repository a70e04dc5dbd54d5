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
    `signature` is an envelope over the digest (security/signing.py), which packages that carry code need.
    `id` names the arm among its endpoint's (empty: its version); `share` is its part of the requests, in percent.
    """

    digest: str
    version: str
    path: str = ""
    store: str = ""
    ref: str = ""
    signature: str = ""
    id: str = ""
    share: float = 100.0

    @property
    def name(self) -> str:
        """The arm's id, or its version where none was given."""
        return self.id or self.version


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Requests whose header `header` has this value go to one arm, whatever the shares say."""

    header: str
    value: str
    arm: str


class Shadow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A version that is asked the same as the others and whose answers are compared and kept, never sent.

    `share` is the percentage of requests that are mirrored; answers differ beyond `atol + rtol * |answer|`.
    """

    arm: Arm
    share: float = 100.0
    atol: float = 1e-5
    rtol: float = 1e-3


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A name in a URL, and what answers it. Limits of 0 mean the package's own or the server's default.

    `placement` fixes where a run happens; `auto` measures. `max_queue_delay_ms` 0 never waits for a fuller batch.
    `max_queue_ms` bounds the time that a request is let wait (0: a second, but 64 may always wait); `slo_p99_ms` caps
    batches and queue so that it holds.
    With several arms a request's arm is the one that a pin names, else that which `override` lets the caller name in
    `x-windlass-arm`, else drawn by the shares: at random, or by a stable hash of `salt` and the `sticky` key
    (`caller`: the API key; `header:NAME`: a header's value).
    Ok answers that took longer than `slow_ms` are counted as slow too (0: none are). `epoch` is a rollout's number:
    which sticky keys had a bad event is remembered as long as it stays (0: not at all).
    """

    name: str
    arms: tuple[Arm, ...]
    max_batch: int = 0
    max_queue: int = 0
    max_queue_delay_ms: float = 0.0
    timeout_ms: int = 0
    placement: Literal["auto", "inline", "thread", "process"] = "auto"
    threads: int = 0
    max_queue_ms: float = 0.0
    slo_p99_ms: float = 0.0
    sticky: str = ""
    salt: str = ""
    pins: tuple[Pin, ...] = ()
    override: bool = False
    shadow: Shadow | None = None
    slow_ms: float = 0.0
    epoch: int = 0


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An API key: only its HMAC-SHA256 (hex), never the secret. `scopes` are permissions, `models` name globs.

    `rate` is requests a second (bursts of up to `burst`, 0: one second's worth), `concurrency` requests under way,
    `quota` requests a day (UTC); 0 is no limit. `second_hmac` is a second live secret, for rotation.
    """

    id: str
    hmac: str
    scopes: tuple[str, ...] = ("model:read", "model:predict")
    models: tuple[str, ...] = ("*",)
    expires_at: float | None = None
    rate: float = 0.0
    burst: int = 0
    concurrency: int = 0
    quota: int = 0
    second_hmac: str = ""


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Paths of PEM files: the certificate chain and its private key; `client_ca` asks callers for a certificate too."""

    certificate: str
    key: str
    client_ca: str = ""


class ServerLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits that hold before anything is parsed. Times in seconds, sizes in bytes."""

    max_connections: int = 10_000
    max_connections_per_peer: int = 4_096
    max_header_bytes: int = 16_384
    max_headers: int = 100
    max_body: int = 67_108_864
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    min_body_rate: int = 1_024
    keepalive_timeout_s: float = 75.0
    max_in_flight: int = 4_096
    max_pending_bytes: int = 1_073_741_824
    max_streams: int = 256
    max_resets_per_s: int = 200
    max_control_frames_per_s: int = 100


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one server runs. A higher `generation` replaces a lower one; the others are ignored.

    `listen` and `admin` are `host:port` (port 0: any free one); `control` is the path of a unix socket.
    `repository` are models that clients may load and unload by name, unless the spec is managed.
    `hosts` are the Host names that are answered ("*" any). `verdicts` is a folder where probation remembers.
    `workers` 0 lets the server choose, and in a later spec leaves their number as it is.
    `allow` are the networks (CIDR) whose peers are answered; none: all.
    `state` is a folder for what outlives the process: exposures, shadow answers, quotas, the last good spec.
    `trusted` are the public keys (Ed25519, hex) whose signature lets a package that carries code run.
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
    workers: int = 0
    tls: Tls | None = None
    allow: tuple[str, ...] = ()
    state: str = ""
    trusted: tuple[str, ...] = ()
