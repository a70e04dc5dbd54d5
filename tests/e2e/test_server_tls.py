"""A server with TLS: what it speaks, whom it refuses, and certificates that change while it answers."""

from __future__ import annotations

import datetime as dt
import http.client
import ipaddress
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from windlass import errors
from windlass.cli import main
from windlass.client import load, targets
from windlass.types import spec

DAY = dt.timedelta(days=1)


class Authority:
    """Issues certificates for 127.0.0.1, and for callers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.path = folder / "ca.pem"
        self.path.write_bytes(self._certificate(self.name, self.key, ca=True))

    def issue(self, name: str) -> tuple[str, str]:
        """A new certificate and key in the files of this name, each put there in one step; their paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        paths = []
        for suffix, data in ((".key", private), (".pem", self._certificate(subject, key, ca=False))):
            path = self.folder / f"{name}{suffix}"
            fresh = path.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.replace(path)
            paths.append(str(path))
        return paths[1], paths[0]

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> bytes:
        now = dt.datetime.now(dt.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        return made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def client(self, certificate: tuple[str, str] | None = None) -> ssl.SSLContext:
        """What a caller needs who trusts this authority."""
        found = ssl.create_default_context(cafile=str(self.path))
        if certificate is not None:
            found.load_cert_chain(*certificate)
        return found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any], packages: Any, authority: Authority) -> Any:
    return start_server(packages.echo("numbers"), tls=spec.Tls(*authority.issue("server")), workers=2)


def _curl(server: Any, authority: Authority, *options: str) -> tuple[int, str]:
    line = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "--max-time", "20"]
    line += ["--cacert", str(authority.path), *options, f"https://localhost:{server.port}/v2/health/ready"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_curl_speaks_both_protocols(server: Any, authority: Authority) -> None:
    assert server.url == f"https://127.0.0.1:{server.port}"
    assert _curl(server, authority, "--http1.1") == (0, "1.1 200")
    assert _curl(server, authority, "--http2") == (0, "2 200")
    assert _curl(server, authority, "--tlsv1.2", "--tls-max", "1.2") == (0, "2 200")
    assert _curl(server, authority, "--no-alpn") == (0, "1.1 200")
    assert _curl(server, authority, "--no-alpn", "--http2-prior-knowledge")[1] == "2 200"
    assert _curl(server, authority, "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0")[0] == 35
    # Whoever does not trust the authority is right to refuse.
    assert _curl(server, authority, "--cacert", "/etc/ssl/certs/ca-certificates.crt")[0] in (60, 77)


@pytest.mark.parametrize("protocol", ["oip", "oip-grpc"])
def test_a_load_is_asked_over_tls_by_who_trusts_the_authority(server: Any, authority: Authority, protocol: str) -> None:
    url = f"{server.url}/numbers"
    target = targets.find(url, protocol, targets.Access(ca=str(authority.path)))
    assert target.tls
    told = load.Load(load.closed(target, connections=2, streams=4, seconds=0.3)).start().wait()
    assert told.lost == 0
    assert told.answered > 20
    with pytest.raises(errors.Unavailable, match="certificate"):
        targets.find(url, protocol, targets.Access())


def test_who_speaks_no_tls_is_told_nothing(server: Any) -> None:
    assert b"HTTP" not in server.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert httpx.get(f"{server.admin_url}/health").status_code == 200


@pytest.mark.promise("P-19b")
def test_callers_without_a_certificate_are_refused(
    start_server: Callable[..., Any], packages: Any, authority: Authority, tmp_path: Path
) -> None:
    files = spec.Tls(*authority.issue("mutual"), client_ca=str(authority.path))
    server = start_server(packages.echo("numbers"), tls=files, workers=1)
    stranger = Authority(tmp_path).issue("stranger")
    url = f"{server.url}/v2/health/ready"
    assert httpx.get(url, verify=authority.client(authority.issue("caller")), timeout=20).status_code == 200
    for certificate in (None, stranger):
        claim = {"x-forwarded-client-cert": "Subject=CN=caller"}
        with pytest.raises(httpx.TransportError):
            httpx.get(url, verify=authority.client(certificate), headers=claim, timeout=20)


def _serial(port: int, client: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", port), 20) as wire,
        client.wrap_socket(wire, server_hostname="localhost") as secure,
    ):
        return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"").serial_number


def _rotate(server: Any, authority: Authority, times: int) -> None:
    """New certificates one after the other while requests come on old and new connections: none is lost."""
    client, stop = authority.client(), threading.Event()
    done: list[int] = []
    lost: list[BaseException] = []

    def keep_asking(requests_each: int) -> None:
        while not stop.is_set():
            one = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=20, context=client)
            try:
                for _ in range(requests_each):
                    one.request("GET", "/v2/health/ready")
                    answer = one.getresponse()
                    answer.read()
                    done.append(answer.status)
                    if stop.is_set():
                        break
                    time.sleep(0.002)
            except (OSError, http.client.HTTPException) as e:
                lost.append(e)
            finally:
                one.close()

    threads = [threading.Thread(target=keep_asking, args=(each,)) for each in (1, 5, 1_000_000, 1_000_000)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(times):
            path, _ = authority.issue("server")
            expected = x509.load_pem_x509_certificate(Path(path).read_bytes()).serial_number
            give_up = time.monotonic() + 10
            # Both workers have seen it when many new connections in a row show it.
            in_a_row = 0
            while in_a_row < 8 and time.monotonic() < give_up:
                in_a_row = in_a_row + 1 if _serial(server.port, client) == expected else 0
            assert in_a_row == 8
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert lost == []
    assert set(done) == {200}
    assert len(done) > 100


@pytest.mark.promise("P-44")
def test_a_new_certificate_loses_nobody(server: Any, authority: Authority) -> None:
    _rotate(server, authority, 2)


@pytest.mark.soak
@pytest.mark.promise("P-44")
def test_a_hundred_new_certificates_lose_nobody(server: Any, authority: Authority) -> None:
    _rotate(server, authority, 100)


@pytest.mark.promise("P-02")
@pytest.mark.parametrize("options", [(), ("--tls-cert", "{cert}", "--tls-key", "{key}")])
def test_beyond_loopback_it_takes_keys_and_tls(
    packages: Any,
    tmp_path: Path,
    authority: Authority,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
) -> None:
    cert, key = authority.issue("server")
    package = packages.echo("numbers").arms[0].path
    files = [option.format(cert=cert, key=key) for option in options]
    code = main.run(["--home", str(tmp_path), "serve", package, "--host", "0.0.0.0", *files])
    said = capsys.readouterr().err
    assert code == 7, said
    for part in ("--tls-cert", "--tls-key", "--insecure", "windlass keys create"):
        assert part in said
    assert ("no keys" if options else "neither keys nor TLS") in said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--tls-cert", "{cert}"), "both --tls-cert and --tls-key"),
        (("--tls-client-ca", "{cert}"), "--tls-client-ca needs TLS"),
        (("--tls-cert", "{cert}", "--tls-key", "{cert}x"), "cannot read the TLS file"),
        (("--tls-cert", "{cert}", "--tls-key", "{cert}"), "PEM form"),
        (("--allow", "10.0.0.1/8"), "is no network"),
    ],
)
def test_wrong_options_are_told_before_anything_starts(
    packages: Any,
    tmp_path: Path,
    authority: Authority,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    told: str,
) -> None:
    cert, _ = authority.issue("server")
    package = packages.echo("numbers").arms[0].path
    files = [option.format(cert=cert) for option in options]
    code = main.run(["--home", str(tmp_path), "serve", package, *files])
    said = capsys.readouterr().err
    assert code == 2, said
    assert told in said


@pytest.mark.promise("P-19b")
def test_who_never_ends_a_handshake_takes_only_its_own_places(
    start_server: Callable[..., Any], packages: Any, authority: Authority
) -> None:
    limits = spec.ServerLimits(max_connections_per_peer=2, header_timeout_s=1.0)
    tls = spec.Tls(*authority.issue("bounded"))
    server = start_server(packages.echo("numbers"), tls=tls, limits=limits)
    shaking = [server.connect() for _ in range(2)]
    with server.connect() as refused:
        assert refused.recv(1) == b""
    # After the header's time their places are free.
    for one in shaking:
        assert one.recv(1) == b""
        one.close()
    assert _curl(server, authority, "--http1.1") == (0, "1.1 200")


@pytest.mark.promise("P-19b")
def test_who_is_not_allowed_gets_no_handshake(
    start_server: Callable[..., Any], packages: Any, authority: Authority
) -> None:
    tls = spec.Tls(*authority.issue("elsewhere"))
    server = start_server(packages.echo("numbers"), tls=tls, allow=("192.0.2.0/24",))
    with server.connect() as refused:
        assert refused.recv(1) == b""
