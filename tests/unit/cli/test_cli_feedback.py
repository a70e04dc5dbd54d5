"""What `windlass feedback` makes of a table."""

from __future__ import annotations

import pytest

from windlass import errors
from windlass.cli import feedback
from windlass.packaging import dataset
from windlass.records import feedback as rows


def read(text: str) -> tuple[rows.Given, ...]:
    return feedback.read(dataset.read(text.encode(), ".csv").columns)


def test_scores_are_read_with_their_times() -> None:
    assert read("request,score,time\nr1,0.5,1000.5\nr2,1,1970-01-01T00:00:10\nr3,0,\n") == (
        rows.Given(0.5, request="r1", at=1000.5),
        rows.Given(1.0, request="r2", at=10.0),
        rows.Given(0.0, request="r3"),
    )
    assert read("key,score,time\nada,1,1970-01-01T01:00:10+01:00\n") == (rows.Given(1.0, key="ada", at=10.0),)


def test_a_label_and_a_prediction_make_a_score() -> None:
    assert read("request,label,prediction\nr1,yes,yes\nr2,no,yes\n") == (
        rows.Given(1.0, request="r1", label="yes"),
        rows.Given(0.0, request="r2", label="no"),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("request,scores\nr1,1\n", "unknown column 'scores'"),
        ("request\nr1\n", "neither 'score' nor"),
        ("request,score\nr1,2\n", "row 0 has the score 2"),
        ("request,score\nr1,\n", "row 0 has the score nan"),
        ("request,score\nr1,good\n", "'good' in column 'score', row 0"),
        ("request,label,prediction\nr1,yes,\n", "row 0 has no prediction"),
        ("request,score,time\nr1,1,noon\n", "row 0 has no time"),
    ],
)
def test_what_is_wrong_is_said_with_its_row(text: str, said: str) -> None:
    with pytest.raises(errors.UsageError, match=said):
        read(text)
