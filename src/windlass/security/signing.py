"""Signatures over packages: an Ed25519 key says that a digest is its own, in an envelope that others' tools can read.

Made by whoever registers a package, checked before a package that carries code is loaded. As a program
(`python -m windlass.security.signing DIGEST KEY...`, the envelope on stdin) it checks one, so that a server need not
hold a cryptographic library for what it does once a load. Must never take a signature for anything but the very
digest that is loaded, nor believe a key that is not listed.

Sources: in-toto Statement v1; DSSE, the Dead Simple Signing Envelope v1.0.2 (secure-systems-lab); RFC 8032 for Ed25519.
"""

from __future__ import annotations

import base64
import binascii
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
from cryptography import exceptions
from cryptography.hazmat.primitives.asymmetric import ed25519

from windlass import errors
from windlass.types import strict_json

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://windlass.dev/predicates/packaged/v1"
_PREFIX = "sha256:"
# In a home: the private key, and the folder of public keys (hex, one a file) whose packages may carry code.
KEY_FILE = "signing.key"
TRUSTED = "trusted"


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"payload_type": "payloadType"}):
    """The statement in base64, and who signed it: `keyid` is the public key in hex."""

    payload: str
    payload_type: str
    signatures: tuple[_Signature, ...]


def own_key(home: Path) -> ed25519.Ed25519PrivateKey:
    """The private key of a home, in a file that only this user can read; made, and listed, when it is not there."""
    path = home / KEY_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return ed25519.Ed25519PrivateKey.from_private_bytes(_read_key(path))
    key = ed25519.Ed25519PrivateKey.generate()
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes_raw())
        file.flush()
        os.fsync(file.fileno())
    (home / TRUSTED).mkdir(mode=0o700, exist_ok=True)
    (home / TRUSTED / "own.pub").write_text(public(key) + "\n", encoding="ascii")
    return key


def _read_key(path: Path) -> bytes:
    data = path.read_bytes()
    if len(data) != 32 or path.stat().st_mode & 0o077:
        raise errors.NotAllowed(
            f"'{path.name}' is no signing key that only this user can read.",
            hint="Restore it (mode 600), or remove it to make a new one and package again what carries code.",
        )
    return data


def public(key: ed25519.Ed25519PrivateKey) -> str:
    """The public half, in hex: what a server lists."""
    return key.public_key().public_bytes_raw().hex()


def sign(key: ed25519.Ed25519PrivateKey, name: str, digest: str) -> str:
    """The envelope, as JSON text, over the statement that the package `name` has this digest (`sha256:<hex>`)."""
    statement: dict[str, Any] = {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest.removeprefix(_PREFIX)}}],
        "predicateType": _PREDICATE,
        "predicate": {},
    }
    payload = strict_json.canonical(statement)
    signed = _Signature(public(key), base64.b64encode(key.sign(_encoded(payload))).decode())
    envelope = Envelope(base64.b64encode(payload).decode(), PAYLOAD_TYPE, (signed,))
    return strict_json.canonical(envelope).decode()


def check(envelope: str, digest: str, trusted: tuple[str, ...]) -> str:
    """The listed key that signed this digest; `NotAllowed` says why nobody vouches for it."""
    if not envelope:
        raise errors.NotAllowed(
            "the package carries code and is not signed.", hint="Package it in this home, or list who signed it."
        )
    try:
        read = strict_json.decode(envelope.encode(), Envelope, what="the signature")
        payload = base64.b64decode(read.payload, validate=True)
        statement = strict_json.loads(payload, what="the signed statement")
        subjects = [subject["digest"]["sha256"] for subject in statement["subject"]]
        right = statement["_type"] == _STATEMENT and statement["predicateType"] == _PREDICATE
        given = [(one.keyid, base64.b64decode(one.sig, validate=True)) for one in read.signatures]
    except (errors.InvalidInput, binascii.Error, KeyError, TypeError, ValueError):
        raise errors.NotAllowed("the package's signature cannot be read.") from None
    if read.payload_type != PAYLOAD_TYPE or not right or subjects != [digest.removeprefix(_PREFIX)]:
        raise errors.NotAllowed("the package's signature is for something else.")
    for keyid, signature in given:
        if keyid in trusted and _holds(keyid, signature, payload):
            return keyid
    raise errors.NotAllowed(
        "the package carries code, and no listed key has signed it.", hint="List the public key of whoever made it."
    )


def _holds(keyid: str, signature: bytes, payload: bytes) -> bool:
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(keyid)).verify(signature, _encoded(payload))
    except (exceptions.InvalidSignature, ValueError):
        return False
    return True


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed says its own type and lengths."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def main() -> None:
    """Check the envelope on stdin for a digest and the keys that are listed; the reason on stdout if it fails."""
    try:
        check(sys.stdin.read(), sys.argv[1], tuple(sys.argv[2:]))
    except errors.NotAllowed as e:
        sys.stdout.write(e.message)
        sys.exit(e.exit_code)


if __name__ == "__main__":
    main()
