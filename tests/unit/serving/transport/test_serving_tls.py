"""TLS files: what is refused and how it is told, what a handshake agrees on, and a certificate that changes."""

from __future__ import annotations

import datetime as dt
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from windlass import errors
from windlass.serving.transport import tls
from windlass.types import spec

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
Key = ec.EllipticCurvePrivateKey


def _issue(
    name: str,
    *,
    days: tuple[float, float] = (-1, 90),
    issuer: tuple[x509.Name, Key] | None = None,
    purpose: x509.ObjectIdentifier | None = None,
) -> tuple[bytes, bytes, tuple[x509.Name, Key]]:
    """A certificate and its key in PEM, and what issues with it; its own issuer unless one is given."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    by, signer = issuer or (subject, key)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + days[0] * DAY)
        .not_valid_after(NOW + days[1] * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if purpose is not None:
        made = made.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    pem = made.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return pem, _private(key, serialization.NoEncryption()), (subject, key)


def _private(key: Key, encryption: Any) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., spec.Tls]:
    """Writes a certificate and a key (and a CA of callers) and names them."""

    def write(certificate: bytes, key: bytes, ca: bytes = b"") -> spec.Tls:
        paths = []
        for name, data in (("cert.pem", certificate), ("key.pem", key), ("ca.pem", ca)):
            path = tmp_path / name
            path.write_bytes(data)
            # A clock of files that is coarse must not hide a change from a test.
            os.utime(path, ns=(write.now, write.now))  # type: ignore[attr-defined]
            write.now += 1  # type: ignore[attr-defined]
            paths.append(str(path))
        return spec.Tls(paths[0], paths[1], paths[2] if ca else "")

    write.now = 1_700_000_000_000_000_000  # type: ignore[attr-defined]
    return write


def _shake(server: ssl.SSLContext, client: ssl.SSLContext, host: str = "one.example") -> ssl.SSLObject:
    """A handshake in memory; the client's end. Raises what either side has against it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=host)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return near


def _client(ca: bytes, *protocols: str) -> ssl.SSLContext:
    client = ssl.create_default_context(cadata=ca.decode())
    if protocols:
        client.set_alpn_protocols(list(protocols))
    return client


@pytest.mark.parametrize(
    ("offered", "agreed"), [(("h2", "http/1.1"), "h2"), (("http/1.1",), "http/1.1"), ((), None), (("spdy/3",), None)]
)
def test_a_handshake_agrees_on_what_the_client_speaks(
    place: Callable[..., spec.Tls], offered: tuple[str, ...], agreed: str | None
) -> None:
    certificate, key, _ = _issue("one.example")
    found = _shake(tls.context(place(certificate, key))[0], _client(certificate, *offered))
    assert found.version() == "TLSv1.3"
    assert found.selected_alpn_protocol() == agreed


def test_old_protocols_and_weak_ciphers_are_refused(place: Callable[..., spec.Tls]) -> None:
    certificate, key, _ = _issue("one.example")
    server = tls.context(place(certificate, key))[0]
    client = _client(certificate)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert _shake(server, client).version() == "TLSv1.2"
    client.set_ciphers("AES128-GCM-SHA256:ECDHE+AES128+SHA1")
    with pytest.raises(ssl.SSLError):
        _shake(server, client)
    names = {cipher["name"] for cipher in server.get_ciphers()}
    assert all(name.startswith(("TLS_", "ECDHE-")) and "SHA1" not in name and "CBC" not in name for name in names)


@pytest.mark.promise("P-19b")
def test_callers_need_a_certificate_of_the_ca_where_one_is_named(
    place: Callable[..., spec.Tls], tmp_path: Path
) -> None:
    certificate, key, _ = _issue("one.example")
    ca, _, signer = _issue("callers")
    other_ca, _, other_signer = _issue("others")
    del other_ca
    server = tls.context(place(certificate, key, ca))[0]
    for issuer, accepted in ((signer, True), (other_signer, False), (None, False)):
        client = _client(certificate)
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        if issuer is not None:
            own, secret, _ = _issue("caller", issuer=issuer, purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
            (tmp_path / "own.pem").write_bytes(own + secret)
            client.load_cert_chain(tmp_path / "own.pem")
        if accepted:
            assert _shake(server, client).version() == "TLSv1.2"
        else:
            with pytest.raises(ssl.SSLError):
                _shake(server, client)


def _pairs() -> dict[str, tuple[bytes, bytes, bytes, str]]:
    certificate, key, signer = _issue("one.example")
    _, other_key, _ = _issue("one.example")
    expired, expired_key, _ = _issue("one.example", days=(-90, -1))
    early, early_key, _ = _issue("one.example", days=(1, 90))
    client, client_key, _ = _issue("caller", issuer=signer, purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
    locked = _private(signer[1], serialization.BestAvailableEncryption(b"secret"))
    return {
        "another's key": (certificate, other_key, b"", "is not that of the certificate"),
        "expired": (expired, expired_key, b"", "has expired"),
        "not yet": (early, early_key, b"", "is not valid yet"),
        "for clients": (client, client_key, b"", "would be refused by clients"),
        "empty": (b"", key, b"", "in PEM form"),
        "swapped": (key, certificate, b"", "in PEM form"),
        "cut": (certificate[:200], key, b"", "in PEM form"),
        "locked": (certificate, locked, b"", "is encrypted"),
        "no CA": (certificate, key, b"nothing", "holds no certificate"),
    }


@pytest.mark.parametrize("case", list(_pairs()))
def test_files_that_no_client_would_accept_do_not_start(place: Callable[..., spec.Tls], case: str) -> None:
    certificate, key, ca, told = _pairs()[case]
    with pytest.raises(errors.UsageError, match=told) as refused:
        tls.Reloading(place(certificate, key, ca))
    assert refused.value.hint


@pytest.mark.parametrize("missing", ["certificate", "key", "client_ca"])
def test_a_missing_file_is_named(place: Callable[..., spec.Tls], missing: str) -> None:
    certificate, key, _ = _issue("one.example")
    wanted = place(certificate, key, certificate)
    Path(getattr(wanted, missing)).unlink()
    with pytest.raises(errors.UsageError, match=Path(getattr(wanted, missing)).name):
        tls.context(wanted)


@pytest.mark.promise("P-44")
def test_a_hundred_new_certificates_come_into_force_one_after_the_other(place: Callable[..., spec.Tls]) -> None:
    pairs = [_issue("one.example")[:2] for _ in range(3)]
    reloading = tls.Reloading(place(*pairs[-1]))
    assert not reloading.check()
    for turn in range(100):
        certificate, key = pairs[turn % 3]
        begun = reloading.current()
        place(certificate, key)
        assert reloading.check()
        assert not reloading.check()
        assert _shake(reloading.current(), _client(certificate)).version() == "TLSv1.3"
        # Who began before the change goes on with what was in force then.
        with pytest.raises(ssl.SSLError):
            _shake(begun, _client(certificate))


@pytest.mark.promise("P-44")
def test_half_a_change_changes_nothing(place: Callable[..., spec.Tls], caplog: pytest.LogCaptureFixture) -> None:
    first, first_key, _ = _issue("one.example")
    second, second_key, _ = _issue("one.example")
    reloading = tls.Reloading(place(first, first_key))
    place(second, first_key)
    assert not reloading.check()
    assert "is not that of the certificate" in caplog.text
    told = len(caplog.records)
    assert not reloading.check()
    # Told once, not every second.
    assert len(caplog.records) == told
    _shake(reloading.current(), _client(first))
    with pytest.raises(errors.UsageError):
        reloading.reload()
    wanted = place(second, second_key)
    assert reloading.check()
    _shake(reloading.current(), _client(second))
    Path(wanted.key).unlink()
    assert not reloading.check()
    _shake(reloading.current(), _client(second))


def test_the_log_says_when_a_certificate_ends_soon(
    place: Callable[..., spec.Tls], caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key, _ = _issue("one.example", days=(-80, 10))
    tls.Reloading(place(certificate, key))
    assert "expires in 10.0 days" in caplog.text or "expires in 9.9 days" in caplog.text


def test_it_looks_every_second(place: Callable[..., spec.Tls]) -> None:
    class Loop:
        def __init__(self) -> None:
            self.later: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

        def call_later(self, seconds: float, callback: Callable[..., None], *arguments: Any) -> None:
            self.later.append((seconds, callback, arguments))

    first, first_key, _ = _issue("one.example")
    loop, reloading = Loop(), tls.Reloading(place(first, first_key))
    reloading.watch(loop)  # type: ignore[arg-type]
    second, second_key, _ = _issue("one.example")
    place(second, second_key)
    before = reloading.current()
    seconds, callback, arguments = loop.later.pop()
    callback(*arguments)
    assert seconds == 1.0
    assert reloading.current() is not before
    assert len(loop.later) == 1
