"""One example of each thing that the API takes or answers, for its document.

Read by `document.py`; a test decodes each one as what it is an example of. Must never hold a secret that was ever live.
"""

from __future__ import annotations

import typing
from typing import Any

import msgspec

from windlass.api import audit, deployments, feedback, keys, models, packages, routes
from windlass.api import errors as statuses
from windlass.desired import history, previews, wishes
from windlass.records import audit as audit_rows
from windlass.records import deployments as deployment_rows
from windlass.records import feedback as feedback_rows
from windlass.records import jobs as job_rows
from windlass.records import keys as key_rows
from windlass.records import rollouts
from windlass.registry import aliases, deletion, findings, lineage, registry, revocations, versions
from windlass.types import deployment, evidence, manifest

_AT = 1_767_225_600.0
_HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_DIGEST = f"sha256:{_HEX}"
_ACTOR = "ci (key 4f7k2m9q1x0z)"
_WHY = "fewer false alarms"
# For the parts of a path.
PARTS = {
    "name": "fraud",
    "alias": "production",
    "version": "4",
    "id": "17",
    "key": "4f7k2m9q1x0z",
    "digest": _DIGEST,
    "hex": _HEX,
}
_OLD = deployment.Release("fraud", 3, "sha256:" + "3" * 64, "fraud@3")
_NEW = deployment.Release("fraud", 4, _DIGEST, "fraud@4")
_CANARY = deployment.Strategy("canary", {"steps": [5, 25, 50]})
_VERSION = versions.Version(
    name="fraud",
    version=4,
    digest=_DIGEST,
    status="READY",
    size=148_320,
    parent=_OLD.digest,
    actor=_ACTOR,
    description="trained on June",
    created_at=_AT,
    reason="",
    generation=3,
    id=41,
)
_EVIDENCE = evidence.Evidence(_DIGEST, "evaluation", "passed", {"accuracy": 0.947, "rows": 12_000}, "june.csv")
_EVENT = aliases.Event("fraud", "production", 7, "move", 3, 4, _ACTOR, _WHY, (88, 91), _AT)
_WISH = wishes.Wish("fraud", "fraud@4", _CANARY)
_DEPLOYMENT = deployment_rows.Deployment(
    desired=deployment.Desired("fraud", _NEW, _CANARY, salt="b1946ac92492d234"),
    generation=7,
    status=deployment.Status(7, "RUNNING", _OLD, {"3": 75.0, "4": 25.0}, 17, "version 4 has 25 % of requests", _AT),
    actor=_ACTOR,
    reason=_WHY,
    created_at=_AT - 86_400,
    updated_at=_AT,
)
_ROLLOUT = rollouts.Rollout(
    id=17,
    deployment="fraud",
    number=5,
    generation=7,
    old=_OLD,
    new=_NEW,
    against=(),
    strategy=_CANARY,
    state={},
    step=2,
    phase="RUNNING",
    verdict="CONTINUE",
    words="version 4 has 25 % of requests",
    outcome="",
    actor=_ACTOR,
    reason=_WHY,
    started_at=_AT,
    ended_at=None,
)
_WANTED = deployment.Wanted("fraud", (deployment.Arm(_OLD, 75.0), deployment.Arm(_NEW, 25.0)))
_JOB = job_rows.Job(
    23, "verify", {"ref": "fraud@4"}, "DONE", {"said": {"verdict": "passed"}}, 1, "", 0.0, _ACTOR, _AT, _AT + 4
)
_LISTED = key_rows.Listed(
    id="4f7k2m9q1x0z",
    name="ci",
    scopes=("model:read", "model:push", "deploy:read", "deploy:write"),
    models=("fraud*",),
    rate=0.0,
    burst=0,
    concurrency=0,
    quota=0,
    actor="operator",
    created_at=_AT,
    expires_at=_AT + 7_776_000,
    revoked_at=None,
    rotating=False,
)
_HEAD = audit_rows.Head(1412, "c" * 64)
_ENTRY = audit_rows.Entry(
    1412, _AT, _ACTOR, "alias.moved", "model/fraud:production", _WHY, {"from": 3, "to": 4}, "b" * 64, "c" * 64
)
_EVERY: tuple[Any, ...] = (
    versions.Model("fraud", 4, 4, {"production": 4}, _AT - 86_400),
    _VERSION,
    registry.Resolved("fraud", 4, _DIGEST, "READY"),
    registry.Shown(
        version=_VERSION,
        aliases=("production",),
        tags={"team": "payments"},
        manifest=None,
        family=lineage.Family((lineage.Relative(_OLD.digest, "fraud", 3),), ()),
        evidence=(findings.Finding(91, _EVIDENCE, _ACTOR, _AT),),
    ),
    findings.Finding(91, _EVIDENCE, _ACTOR, _AT),
    deletion.Deleted("fraud", 2, "sha256:" + "2" * 64, ("sha256:" + "2" * 64,), 148_320, ()),
    _EVENT,
    revocations.Users(_DIGEST, (_VERSION,), ("fraud:production",), ("fraud",)),
    revocations.Revoked(_DIGEST, (_VERSION,), ("fraud",)),
    models.Found("evaluation", "passed", {"accuracy": 0.947, "rows": 12_000}, "june.csv"),
    models.Move(4, _WHY),
    models.Back("errors rose after 14:03"),
    models.Revoke("the training data was poisoned"),
    packages.Package(_DIGEST, "trained on June", {"team": "payments"}),
    packages.Registered("fraud", 4, _DIGEST, "NEW", created=True, job=23),
    manifest.BlobRef(_DIGEST, 148_320),
    _WISH,
    _DEPLOYMENT,
    previews.Preview(
        name="fraud",
        release=_NEW,
        live=_OLD,
        generation=6,
        changes=("the release goes from fraud@3 to fraud@4",),
        steps=("5 % for at least 60 s", "25 % for at least 60 s", "50 % for at least 60 s"),
        expected=("if it is healthy, promoted after about 9 minutes",),
        rate=120.0,
        bad=0.005,
    ),
    history.Live("fraud", _AT, _NEW, _AT - 600, 0.0, 17, _ACTOR, _WHY, "promoted on evidence"),
    deployments.Back("fraud@3", "errors rose after 14:03"),
    deployments.Order("pause", "a sale begins"),
    _ROLLOUT,
    rollouts.Step(2, _AT, "RUNNING", "CONTINUE", "version 4 has 25 % of requests", _WANTED, {}, {}),
    feedback.Batch((feedback_rows.Given(1.0, request="01JZX0Q3", label="fraud"),)),
    feedback_rows.Added(1, 1, 0, 0),
    feedback_rows.Standing(
        "fraud", 900, 880, 20, 4, 2, {"3": feedback_rows.Arm(660, 0.91), "4": feedback_rows.Arm(220, 0.93)}
    ),
    _JOB,
    _LISTED,
    key_rows.Wish("ci", ("model:read", "model:push"), ("fraud*",)),
    key_rows.Made("4f7k2m9q1x0z", "ci", "wl_4f7k2m9q1x0z_" + "x" * 43),
    keys.Why("its laptop was lost"),
    _ENTRY,
    _HEAD,
    audit_rows.Verified(1412, _HEAD),
    audit.Heads((_HEAD,)),
)
_BY_TYPE = {type(one): one for one in _EVERY}


def of(kind: Any) -> Any:
    """An example of a type, as JSON has it."""
    if typing.get_origin(kind) is routes.Page:
        return {"items": [of(typing.get_args(kind)[0])], "next": ""}
    if kind in _BY_TYPE:
        return msgspec.to_builtins(_BY_TYPE[kind])
    return msgspec.to_builtins(kind()) if hasattr(kind, "__struct_fields__") else {}


def error(status: int) -> Any:
    """An example of an error's body."""
    kind = next(kind for kind, number in statuses.HTTP.items() if number == status)
    return msgspec.to_builtins(
        statuses.body(kind("What is wrong, and why.", hint="What to do next."), "5f1d7a84db00d2fc")
    )
