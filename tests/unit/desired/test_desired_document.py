"""deployment.toml: what it takes, what it refuses, and that every wish can be written as one."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from windlass import errors
from windlass.desired import document, wishes
from windlass.types import deployment

WHOLE = """
name = "fraud"
ref = "fraud@4"
against = ["fraud@5", "fraud:beta"]
alias = ""

[strategy]
kind = "canary"
steps = [1, 10, 50]

[serving]
max_batch = 32
placement = "process"
slo_p99_ms = 20.0
"""


def test_every_key_is_read() -> None:
    assert document.parse(WHOLE) == wishes.Wish(
        "fraud",
        "fraud@4",
        deployment.Strategy("canary", {"steps": [1, 10, 50]}),
        serving=deployment.Serving(max_batch=32, placement="process", slo_p99_ms=20.0),
        against=("fraud@5", "fraud:beta"),
        alias="",
    )


def test_a_strategy_may_be_its_name() -> None:
    wish = document.parse(b'name = "fraud"\nref = "fraud"\nstrategy = "rolling"')
    assert wish.strategy == deployment.Strategy("rolling")
    assert wish.alias == "production"


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ('nme = "x"\nref = "x"', "unknown key 'nme'", "'name'"),
        ('name = "x"\nref = "x"\n[serving]\nmax_bach = 1', "'serving.max_bach'", "'max_batch'"),
        ('name = "x"\nref = "x"\n[canary]\nsteps = [1]', "unknown key 'canary'", ""),
        ('ref = "x"', "lacks 'name'", ""),
        ('name = "x"', "lacks 'ref'", ""),
        ('name = "x"\nref = "x"\n[strategy]\nsteps = [1]', "lacks 'kind'", ""),
        ('name = "x"\nref = "x"\nstrategy = 3', "'strategy' is a table", ""),
        ('name = "x"\nref = "x"\nserving = 3', "'serving' is a table", ""),
        ('name = "x"\nref = 3', "ref", ""),
        ('name = "x"\nref = "x"\n[serving]\nmax_batch = -1', "serving.max_batch is -1", ""),
        ('name = "x"\nref = "x"\n[serving]\ntimeout_ms = "1s"', "serving.timeout_ms", ""),
        ('name = "x"\nref = "x"\n[serving]\nmax_queue_ms = nan', "serving.max_queue_ms is nan", ""),
        ('name = "X y"\nref = "x"', "no model name", ""),
        ('name = "x"\nref = "./x.windlass"', "is a path", ""),
        ('name = "x"\nref = "x"\ntarget = "loca"', "loca", "local"),
        ('name = "x', "not valid TOML", ""),
        (b"\xff", "not valid TOML", ""),
        (" " * (document.MAX_BYTES + 1), "longer than", ""),
        ("a" + ".a" * 3_000 + "=1", "", ""),
    ],
)
def test_what_is_wrong_is_said(text: str | bytes, said: str, hint: str) -> None:
    with pytest.raises((errors.UsageError, errors.NotFound)) as raised:
        document.parse(text)
    assert said in raised.value.message
    assert hint in raised.value.hint


names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)


def toml(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


@hypothesis.given(
    names,
    names,
    st.lists(names, max_size=3),
    names,
    st.dictionaries(
        names.filter(lambda name: name != "kind"), st.one_of(st.integers(0, 99), st.booleans(), names), max_size=3
    ),
    st.integers(0, 10_000),
)
def test_a_wish_written_down_is_read_again(
    name: str, ref: str, against: list[str], kind: str, parameters: dict[str, object], batch: int
) -> None:
    lines = [f'name = "{name}"', f'ref = "{ref}@3"', f"against = {toml(against)}", "[serving]", f"max_batch = {batch}"]
    lines += ["[strategy]", f'kind = "{kind}"', *(f"{key} = {toml(value)}" for key, value in parameters.items())]
    wish = document.parse("\n".join(lines))
    assert wish == wishes.Wish(
        name,
        f"{ref}@3",
        deployment.Strategy(kind, parameters),
        serving=deployment.Serving(max_batch=batch),
        against=tuple(against),
    )


@hypothesis.given(st.one_of(st.text(max_size=200), st.binary(max_size=200)))
def test_anything_else_is_refused_with_a_sentence(data: str | bytes) -> None:
    with pytest.raises(errors.WindlassError):
        document.parse(data)
