"""API keys: what is a key's text, and that its HMAC tells keys apart."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.security import keys

PEPPER = b"p" * 32


def test_a_new_key_is_parsed_back() -> None:
    identity, text = keys.generate()
    parsed = keys.parse(text)
    assert parsed is not None
    assert parsed[0] == identity
    assert text == f"wl_{identity}_{parsed[1]}"
    assert len(parsed[1]) == 43


def test_keys_do_not_repeat() -> None:
    made = [keys.generate() for _ in range(2000)]
    assert len({identity for identity, _ in made}) == 2000
    assert len({text for _, text in made}) == 2000


@given(st.text(max_size=80))
def test_other_text_is_no_key(text: str) -> None:
    assert keys.parse(text) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t + "\n",
        lambda t: t[:-1],
        lambda t: t.upper(),
        lambda t: "WL" + t[2:],
        lambda t: t[:-1] + "\N{DIGIT ONE}\N{COMBINING ACUTE ACCENT}",
        lambda t: t[:-1] + "\N{ARABIC-INDIC DIGIT ONE}",
        lambda t: t[:-1] + "=",
        lambda t: " " + t[:-1],
    ],
)
def test_a_key_that_is_nearly_right_is_no_key(change) -> None:
    assert keys.parse(change(keys.generate()[1])) is None


def test_the_hmac_is_the_standard_one() -> None:
    text = keys.generate()[1]
    assert keys.hmac_of(text, PEPPER) == hmac.new(PEPPER, text.encode(), hashlib.sha256).hexdigest()


@pytest.mark.promise("P-18")
def test_only_the_same_key_under_the_same_pepper_matches() -> None:
    (identity, text), (_, other) = keys.generate(), keys.generate()
    stored = keys.hmac_of(text, PEPPER)
    assert keys.hmac_of(text, PEPPER) == stored
    assert keys.hmac_of(other, PEPPER) != stored
    assert keys.hmac_of(text, b"q" * 32) != stored
    assert text[-43:] not in stored
    # A secret under another id is another key.
    assert keys.hmac_of(text.replace(identity, "0" * 12), PEPPER) != stored
