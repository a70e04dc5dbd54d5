"""`windlass doctor`: every setting and its live value, what is wrong here, and how to mend it.

Loaded by `cli/main.py`; `checks.py` and `checks_security.py` look. Must never mend anything itself, show a secret, nor
make what it looks for.
"""

from __future__ import annotations

import time
from typing import Any

import click
import msgspec

from windlass import settings
from windlass.cli import checks, checks_security, output, planes
from windlass.controller import webhooks


class Report(msgspec.Struct, frozen=True):
    """Every setting with its value and its default, and what was found."""

    settings: tuple[checks.Setting, ...]
    findings: tuple[checks.Finding, ...]


@click.command()
@click.option("--security", is_flag=True, help="Only what keeps others out.")
@click.pass_obj
def doctor(context: output.Context, security: bool) -> int:
    """Show every default and its live value, what is wrong and how to mend it; exit 1 if something is wrong."""
    planes.here(context, "windlass doctor")
    looks = (*(() if security else checks.CHECKS), *checks_security.CHECKS)
    found = tuple(finding for look in looks for finding in checks.safely(look, context.settings, time.time()))
    report = Report(() if security else values(context.settings), found)
    context.result(report, lambda: _text(report))
    wrong = sum(finding.state == "wrong" for finding in found)
    if wrong:
        context.say(f"{wrong} of {len(found)} checks found something wrong.")
    return 1 if wrong else 0


def values(found: settings.Settings) -> tuple[checks.Setting, ...]:
    """Every setting by its dotted name; keys are not shown."""
    live, default = (_flat(msgspec.to_builtins(one, enc_hook=str)) for one in (found, settings.Settings()))
    return tuple(
        checks.Setting(name, _plain(name, value), _plain(name, default.get(name, ""))) for name, value in live.items()
    )


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _plain(name: str, value: Any) -> str:
    if name == "client.key" and value:
        return "(set)"
    if name == "webhooks":
        # The path of some is a secret, and what a doctor says is shown around.
        return ", ".join(webhooks.named(one["url"]) for one in value)
    if "://" in str(value) and "@" in str(value):
        return f"{str(value).partition('://')[0]}://...@{str(value).rpartition('@')[2]}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _text(report: Report) -> str:
    lines = []
    if report.settings:
        rows = [
            (s.name, s.value or "-", "" if s.value == s.default else f"{s.default or '-'}") for s in report.settings
        ]
        lines += [output.table(("SETTING", "VALUE", "DEFAULT, WHERE IT DIFFERS"), rows), ""]
    for finding in report.findings:
        lines.append(f"{finding.state:<8}{finding.name:<22}{finding.value}")
        lines += [f"{'':<30}{finding.mend}"] if finding.mend else []
    return "\n".join(lines)
