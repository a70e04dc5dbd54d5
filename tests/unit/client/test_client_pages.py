"""client/pages.py: axes, ticks and text that stay what they are, whatever names they are given."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.client import pages

HOSTILE = "</title><script>alert(1)</script>\"'&\x00\x1b[31m\u202e"


@given(st.floats(1e-3, 1e9))
def test_steps_from_zero_are_round_and_few(high: float) -> None:
    found = pages.steps(0, high)
    assert found[0] == 0
    assert found[-1] <= high * (1 + 1e-6)
    assert 3 <= len(found) <= 8


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_steps_lie_between_the_ends(low: float, wide: float) -> None:
    found = pages.steps(low, low + wide)
    slack = wide * 1e-6
    assert 2 <= len(found) <= 8
    assert all(low - slack <= step <= low + wide + slack for step in found)
    assert found == sorted(set(found))


def test_steps_have_no_noise_in_their_digits() -> None:
    assert pages.steps(0.8, 2.3) == [1.0, 1.5, 2.0]
    assert [pages.number(step) for step in pages.steps(-0.1, 0.5)] == ["-0.1", "0", "0.1", "0.2", "0.3", "0.4", "0.5"]


@given(st.floats(allow_nan=False), st.booleans())
def test_a_value_stays_on_its_axis(value: float, logarithmic: bool) -> None:
    axis = pages.Axis("x", 0.5, 20.0, logarithmic)
    assert 0 <= axis.share(value) <= 1
    assert (axis.share(0.5), axis.share(20.0)) == (0, 1)
    assert all(0.5 <= tick <= 20 for tick in axis.ticks())


def test_text_is_escaped_for_elements_and_attributes() -> None:
    said = pages.escaped(HOSTILE)
    assert not set(said) & set("<>\"'\x00\x1b\u202e")
    assert ET.fromstring(f'<a b="{said}">{said}</a>').text


@pytest.mark.parametrize("name", [HOSTILE, "", "a" * 500])
def test_tables_and_bars_take_any_name(name: str) -> None:
    table = ET.fromstring(pages.table((name, "n"), [(name, "1")], text=(0,)))
    assert [cell.get("class") for cell in table.iter("td")] == ["text", None]
    drawn = ET.fromstring(pages.bars(name, [(name, 1.0, name, 0), ("flat", 0.0, "0", 1), ("none", math.inf, "-", 2)]))
    assert len(drawn.findall(".//rect")) == 3
    assert all(0 <= float(bar.attrib["width"]) <= 640 for bar in drawn.findall(".//rect"))
    assert not drawn.findall(".//script")


def test_a_page_asks_nobody_and_follows_the_readers_colours() -> None:
    text = pages.document(HOSTILE, "<p>hello</p>")
    root = ET.fromstring(text.removeprefix("<!doctype html>\n"))
    assert "://" not in text
    assert not [each for each in root.iter() if each.tag in ("script", "link", "img")]
    policy = root.find(".//meta[@http-equiv='Content-Security-Policy']")
    assert policy is not None
    assert policy.attrib["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert "prefers-color-scheme: dark" in text
