"""Settings that are lists, from an environment that has only texts."""

from __future__ import annotations

import pytest

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
