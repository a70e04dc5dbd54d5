"""Signatures: made over a digest, checked against listed keys, and refused for anything else."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.security import signing

DIGEST = "sha256:" + "ab" * 32
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = (signing.public(KEY),)
ENVELOPE = signing.sign(KEY, "fraud", DIGEST)


def changed(**parts: Any) -> str:
    return json.dumps({**json.loads(ENVELOPE), **parts}, sort_keys=True, separators=(",", ":"))


def payload_with(**parts: Any) -> str:
    statement = {**json.loads(base64.b64decode(json.loads(ENVELOPE)["payload"])), **parts}
    return base64.b64encode(json.dumps(statement).encode()).decode()


def meaning(envelope: str) -> Any:
    """What an envelope says: the last letter of a base64 text has bits that say nothing."""
    try:
        read = json.loads(envelope)
        signatures = [(one["keyid"], base64.b64decode(one["sig"])) for one in read["signatures"]]
        return sorted(read), base64.b64decode(read["payload"]), read["payloadType"], signatures
    except (ValueError, KeyError, TypeError):
        return None


def test_a_listed_key_vouches_for_the_digest_it_signed() -> None:
    assert signing.check(ENVELOPE, DIGEST, TRUSTED) == TRUSTED[0]


def test_the_envelope_is_what_other_tools_read() -> None:
    read = json.loads(ENVELOPE)
    payload = base64.b64decode(read["payload"])
    assert read["payloadType"] == "application/vnd.in-toto+json"
    assert json.loads(payload)["subject"] == [{"name": "fraud", "digest": {"sha256": "ab" * 32}}]
    # DSSE v1.0.2: the signature covers "DSSEv1", the type and the payload, each behind its length.
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    KEY.public_key().verify(base64.b64decode(read["signatures"][0]["sig"]), signed)


@pytest.mark.promise("P-66")
@pytest.mark.parametrize(
    ("envelope", "digest", "trusted"),
    [
        ("", DIGEST, TRUSTED),
        ("{}", DIGEST, TRUSTED),
        ("[]", DIGEST, TRUSTED),
        ("not json", DIGEST, TRUSTED),
        (ENVELOPE, "sha256:" + "cd" * 32, TRUSTED),
        (ENVELOPE, DIGEST, ()),
        (ENVELOPE, DIGEST, (signing.public(ed25519.Ed25519PrivateKey.generate()),)),
        (changed(payloadType="text/plain"), DIGEST, TRUSTED),
        (changed(signatures=[]), DIGEST, TRUSTED),
        (changed(signatures=[{"keyid": TRUSTED[0], "sig": base64.b64encode(bytes(64)).decode()}]), DIGEST, TRUSTED),
        (changed(signatures=[{"keyid": "zz", "sig": ""}]), DIGEST, ("zz",)),
        (changed(payload=payload_with(predicateType="https://elsewhere")), DIGEST, TRUSTED),
        (changed(payload=payload_with(subject=[])), DIGEST, TRUSTED),
        (changed(payload=payload_with(subject=3)), DIGEST, TRUSTED),
        (changed(payload="!!"), DIGEST, TRUSTED),
    ],
)
def test_anything_else_is_refused(envelope: str, digest: str, trusted: tuple[str, ...]) -> None:
    with pytest.raises(errors.NotAllowed):
        signing.check(envelope, digest, trusted)


@given(st.integers(0, len(ENVELOPE) - 1), st.integers(1, 255))
def test_no_changed_byte_passes(position: int, flip: int) -> None:
    raw = bytearray(ENVELOPE.encode())
    raw[position] ^= flip
    text = raw.decode("latin-1")
    if meaning(text) != meaning(ENVELOPE):
        with pytest.raises(errors.NotAllowed):
            signing.check(text, DIGEST, TRUSTED)


def test_a_home_makes_its_key_once_and_lists_it(tmp_path: Path) -> None:
    first, second = signing.own_key(tmp_path), signing.own_key(tmp_path)
    assert signing.public(first) == signing.public(second)
    assert (tmp_path / "trusted" / "own.pub").read_text().strip() == signing.public(first)
    assert (tmp_path / signing.KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    signing.own_key(tmp_path)
    (tmp_path / signing.KEY_FILE).chmod(0o644)
    with pytest.raises(errors.NotAllowed, match="only this user"):
        signing.own_key(tmp_path)
