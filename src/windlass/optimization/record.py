"""A study on record: its report as evidence of a version, and back.

Called when a form is released, when a version is left as it is, and by whoever shows studies. Must never change a
report: what is read is what was found.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from windlass.optimization import findings
from windlass.packaging import verdicts
from windlass.types import evidence, strict_json

KIND: Literal["optimization"] = "optimization"


def evidence_of(
    digest: str, report: findings.Report, verdict: Literal["passed", "failed"] = "passed"
) -> evidence.Evidence:
    """The study as evidence of a package, with what people look for first beside the report."""
    told = {"sentence": report.sentence, "verdict": report.verdict, "isa": verdicts.isa()}
    return evidence.Evidence(digest, KIND, verdict, {**told, "report": plain(report)})


def kept(report: findings.Report) -> evidence.Evidence:
    """A study that changed nothing, as evidence of the version that it was about: failed where a budget was missed."""
    return evidence_of(report.parent, report, "failed" if report.verdict == "missed" else "passed")


def reports(found: Iterable[evidence.Evidence]) -> tuple[findings.Report, ...]:
    """The studies among a version's evidence, the oldest first; what another version of Windlass wrote is left out."""
    told = []
    for one in found:
        if one.kind == KIND:
            try:
                told.append(msgspec.convert(one.statistics.get("report"), findings.Report))
            except msgspec.ValidationError:
                continue
    return tuple(told)


def plain(value: Any) -> Any:
    """A finding as JSON has it: there is no infinity, so a bound that is none becomes the largest number."""
    return _finite(strict_json.plain(value))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return math.copysign(sys.float_info.max, value) if isinstance(value, float) and math.isinf(value) else value
