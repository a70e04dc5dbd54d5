"""What others wrote is shown, and steers no terminal."""

from __future__ import annotations

import json

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors, settings
from windlass.cli import main, output

HOSTILE = "ok\x1b]0;owned\x07\x1b[2J\x1b[1A\x9b31m\rall is well\u202egnp.\x08\x7f"


def steers(text: str) -> list[str]:
    return [c for c in text if c not in "\n\t" and not c.isprintable()]


@given(st.text())
def test_nothing_that_steers_gets_through(text: str) -> None:
    plain = output.shown(text, styles=False)
    assert not {c for c in steers(plain) if c < "\xa0" or c in "\u202e\u2066\u200f\ufeff"}
    assert plain == text or len(plain) > len(text)


def test_our_own_colours_stay_and_others_do_not_move_the_cursor() -> None:
    own = click.style("Error", fg="red", bold=True)
    assert output.shown(own) == own
    assert steers(output.shown(HOSTILE)) == []
    assert output.shown("a\tb\nc") == "a\tb\nc"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_result_is_shown_without_what_steers(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    context = output.Context(settings.Settings(), json=as_json)
    context.result({"reason": HOSTILE}, lambda: output.table(("WHY",), [(HOSTILE,)]))
    context.say(HOSTILE)
    said = capsys.readouterr()
    assert steers(said.out + said.err) == []
    if as_json:
        assert json.loads(said.out) == {"reason": HOSTILE}


def test_an_error_in_anothers_words_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    main._complain(errors.Conflict(HOSTILE, hint=HOSTILE))
    assert steers(capsys.readouterr().err) == []
