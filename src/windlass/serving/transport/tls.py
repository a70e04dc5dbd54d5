"""TLS of a listener: a context for new connections, made again when the files change; open connections go on.

Made by the worker where the spec has a `tls`; asked for its `current` context at each accepted connection. A pair of
files is tried in a handshake of its own before it serves anybody. Must never put a file in force that a client would
refuse, nor ask at a terminal for a password.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from windlass import errors
from windlass.types import spec

log = logging.getLogger(__name__)
CHECK_EVERY_S = 1.0
PROTOCOLS = ("h2", "http/1.1")
# TLS 1.2 with forward secrecy and authenticated encryption only; those of TLS 1.3 are all of that kind.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_NOT_YET_VALID, _EXPIRED = 9, 10
_SOON_S = 14 * 86_400.0


class Reloading:
    """The context of a listener's certificate, and the files that it was made of. Belongs to the loop's thread."""

    def __init__(self, wanted: spec.Tls, *, clock: Callable[[], float] = time.time) -> None:
        """`UsageError` says which file is missing, wrong, expired or not the other's."""
        self._wanted = wanted
        self._clock = clock
        self._stamp = _stamp(wanted)
        self._context = self._made()

    def current(self) -> ssl.SSLContext:
        """The context for a connection that begins now."""
        return self._context

    def reload(self) -> None:
        """Put the files as they are now in force; `UsageError`, and nothing changes, if they are not fit to be."""
        stamp = _stamp(self._wanted)
        self._context = self._made()
        self._stamp = stamp

    def check(self) -> bool:
        """Reload if a file changed since it was last looked at; whether a new certificate is in force."""
        stamp = _stamp(self._wanted)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self.reload()
        except errors.WindlassError as e:
            # Perhaps only one of the two files is there yet: the other's change is seen when it comes.
            log.warning("the TLS certificate stays as it was: %s", e)
            return False
        log.info("a new TLS certificate is in force for new connections")
        return True

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Check every second from now on."""
        loop.call_later(CHECK_EVERY_S, self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self.watch(loop)
        self.check()

    def _made(self) -> ssl.SSLContext:
        found, ends = context(self._wanted)
        left = ends - self._clock()
        if left < _SOON_S:
            log.warning("the TLS certificate expires in %.1f days", left / 86_400)
        return found


def context(wanted: spec.Tls) -> tuple[ssl.SSLContext, float]:
    """A server's context, and when its certificate ends, in seconds since the epoch.

    TLS 1.2 or newer, HTTP/2 and HTTP/1.1 by ALPN, client certificates where they are asked for. `UsageError` if a file
    cannot be read or parsed, if the key is not the certificate's, or if no client would accept the certificate today.
    """
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version = ssl.TLSVersion.TLSv1_2
    found.set_ciphers(_CIPHERS)
    found.set_alpn_protocols(list(PROTOCOLS))
    found.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    for path in (wanted.certificate, wanted.key, wanted.client_ca):
        _check_readable(path)
    try:
        found.load_cert_chain(wanted.certificate, wanted.key, password=_no_password)
    except ssl.SSLError as e:
        raise _unfit(wanted, e) from None
    ends = _rehearse(found, wanted)
    if wanted.client_ca:
        try:
            found.load_verify_locations(cafile=wanted.client_ca)
        except ssl.SSLError:
            raise errors.UsageError(
                f"{wanted.client_ca} holds no certificate.", hint="Give --tls-client-ca a PEM file of the callers' CA."
            ) from None
        found.verify_mode = ssl.CERT_REQUIRED
    return found, ends


def _stamp(wanted: spec.Tls) -> tuple[tuple[int, int, int], ...]:
    """What changes when a file does."""
    found = []
    for path in (wanted.certificate, wanted.key, wanted.client_ca):
        try:
            status = Path(path).stat()
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            found.append((0, 0, 0))
    return tuple(found)


def _check_readable(path: str) -> None:
    if not path:
        return
    try:
        with Path(path).open("rb"):
            pass
    except OSError as e:
        raise errors.UsageError(f"cannot read the TLS file {path}: {e.strerror}.", hint="Check its path.") from None


def _no_password() -> str:
    raise errors.UsageError(
        "the TLS key is encrypted, and a server has nobody to ask for its password.",
        hint="Decrypt it: openssl pkey -in KEY -out PLAIN",
    )


def _unfit(wanted: spec.Tls, error: ssl.SSLError) -> errors.UsageError:
    if error.reason == "KEY_VALUES_MISMATCH":
        return errors.UsageError(
            f"the key {wanted.key} is not that of the certificate {wanted.certificate}.",
            hint="Give --tls-cert and --tls-key files that belong together.",
        )
    return errors.UsageError(
        f"{wanted.certificate} and {wanted.key} are no certificate and key in PEM form.",
        hint="The certificate's file begins with BEGIN CERTIFICATE, the key's with BEGIN PRIVATE KEY.",
    )


def _rehearse(server: ssl.SSLContext, wanted: spec.Tls) -> float:
    """A handshake in memory with a client that trusts this very certificate: when it ends, in epoch seconds."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        trusting.load_verify_locations(cafile=wanted.certificate)
        client = trusting.wrap_bio(to_client, to_server)
        answering = server.wrap_bio(to_server, to_client, server_side=True)
        _step(client)
        _step(answering)
        client.do_handshake()
    except ssl.SSLCertVerificationError as e:
        told = {_EXPIRED: "has expired", _NOT_YET_VALID: "is not valid yet"}
        why = told.get(e.verify_code, f"would be refused by clients: {e.verify_message}")
        raise errors.UsageError(
            f"the certificate {wanted.certificate} {why}.", hint="Renew it, and give --tls-cert the new file."
        ) from None
    except ssl.SSLError as e:
        raise errors.UsageError(
            f"the certificate {wanted.certificate} cannot be used: {e.reason}.",
            hint="Make another key and certificate.",
        ) from None
    ends = (client.getpeercert() or {}).get("notAfter", "")
    return float(ssl.cert_time_to_seconds(str(ends)))


def _step(side: ssl.SSLObject) -> None:
    """As far as one side comes by itself."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return
