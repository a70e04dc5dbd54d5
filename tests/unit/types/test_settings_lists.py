"""Settings: which source is above which, lists from an environment that has only texts, what is said of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from windlass import errors, settings


@pytest.mark.parametrize("text", ['["evaluation", "manual"]', "evaluation, manual", "evaluation,manual,"])
def test_a_list_is_json_or_texts_with_commas(text: str) -> None:
    found = settings.load(environ={"WINDLASS_POLICY__REQUIRE": text})
    assert found.policy.require == ("evaluation", "manual")


def test_tables_are_json() -> None:
    text = '[{"url": "https://hooks.example/x", "secret_file": "/run/secret", "events": "rollout.*"}]'
    (hook,) = settings.load(environ={"WINDLASS_WEBHOOKS": text}).webhooks
    assert (hook.url, hook.events) == ("https://hooks.example/x", ("rollout.*",))


def test_what_is_no_json_is_said_with_its_name() -> None:
    with pytest.raises(errors.UsageError, match="WINDLASS_UP__HOSTS is not valid JSON"):
        settings.load(environ={"WINDLASS_UP__HOSTS": '["a.example"'})


@pytest.mark.parametrize(
    ("name", "text", "said", "hint"),
    [
        ("SERVE__PRT", "1", "no setting 'serve.prt'", "serve.port"),
        ("POLICIES", "a", "no setting 'policies'", "policy.require"),
        ("SERVE__PORT", "many", "'serve.port' is wrong", "Mend it"),
        ("SERVE__PORT", "70000", "'serve.port' is wrong: .* <= 65535", "Mend it"),
        ("UP__INTERVAL_S", "nan", "'up.interval_s' is wrong", "Mend it"),
        ("HOME", "[1]", "'home' is wrong: Expected `path`", "Mend it"),
        ("SERVE", "here", "'serve' is wrong", "Mend it"),
        ("WEBHOOKS", '[{"url": 1}]', r"'webhooks\[0\].url' is wrong", "Mend it"),
    ],
)
def test_what_is_wrong_is_named(name: str, text: str, said: str, hint: str) -> None:
    with pytest.raises(errors.UsageError, match=said) as caught:
        settings.load(environ={f"WINDLASS_{name}": text})
    assert hint in caught.value.hint


def test_flags_are_above_the_environment_and_that_above_the_file(tmp_path: Path) -> None:
    file = tmp_path / "windlass.toml"
    file.write_text('home = "a"\n[serve]\nport = 1\nadmin_port = 2\nhost = "::1"\n[policy]\nrequire = ["manual"]\n')
    found = settings.load(
        {"serve.port": 5, "home": None}, file=file, environ={"WINDLASS_SERVE__PORT": "4", "WINDLASS_UP__WARM_S": "1.5"}
    )
    assert found.serve == settings.Serve(host="::1", port=5, admin_port=2)
    assert (found.home, found.up.warm_s, found.policy.require) == (Path("a"), 1.5, ("manual",))


@hypothesis.given(
    st.dictionaries(
        st.sampled_from([*settings.keys(), "serve", "up.prt", "webhooks.url"]),
        st.none() | st.booleans() | st.floats() | st.text() | st.lists(st.dictionaries(st.text(), st.text())),
    )
)
def test_whatever_is_given_is_settings_or_a_refusal_that_names_one(values: dict[str, Any]) -> None:
    given = {name: value for name, value in values.items() if value is not None}
    try:
        found = settings.load(values, environ={})
    except errors.UsageError:
        with pytest.raises(errors.UsageError, match="setting"):
            settings.load(given, environ={})
    else:
        assert settings.load(given, environ={}) == found
