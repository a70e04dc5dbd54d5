"""Whether a release may be deployed: its status, the evidence that the policy asks for, and what callers send now.

Called by `deployments.py` before a wish is stored. Must never let anything pass that is in quarantine or deleted,
whoever forces it.
"""

from __future__ import annotations

import msgspec

from windlass import errors, references
from windlass.desired import previews
from windlass.registry import compatibility, promotion
from windlass.registry import registry as registries
from windlass.types import deployment, refs

# Checks of the package itself: whose last finding is a refusal stands in the way, asked for or not.
_CHECKS = ("parity", "verify", "evaluation", "manual")
_FORCE = '(or repeat with --force --reason "...")'


def resolve(registry: registries.Registry, text: str) -> deployment.Release:
    """The release that a reference means now; `NotAllowed` for one in quarantine, `NotFound` for one deleted."""
    ref = refs.parse(text)
    found = registry.resolve(ref)
    exact = refs.Ref(kind="version", name=found.name, version=found.version)
    return deployment.Release(
        name=found.name,
        version=found.version,
        digest=found.digest,
        ref=text,
        signature=references.signature_of(registry, exact),
    )


def refusals(
    registry: registries.Registry,
    release: deployment.Release,
    live: deployment.Release | None,
    policy: tuple[str, ...],
) -> errors.GateRefused | None:
    """Why a release may not be deployed in place of the live one, with the way out; None if it may."""
    named = previews.named(release)
    shown = registry.show(refs.Ref(kind="version", name=release.name, version=release.version))
    if shown.version.status != "READY":
        return errors.GateRefused(
            f"{named} is {shown.version.status}, not READY.", hint=f"Run: windlass verify {named} {_FORCE}"
        )
    last: dict[str, str] = {found.evidence.kind: found.evidence.verdict for found in shown.evidence}
    for kind in dict.fromkeys((*policy, *_CHECKS)):
        if last.get(kind, "passed") != "passed":
            return errors.GateRefused(f"{named} failed its last {kind}.", hint=f"See: {_way(kind, named)} {_FORCE}")
    for kind in policy:
        if kind not in last:
            return errors.GateRefused(
                f"the policy asks for passed evidence of the kind '{kind}', and {named} has none.",
                hint=f"Run: {_way(kind, named)} {_FORCE}",
            )
    if live is None or previews.same(live, release):
        return None
    new, old = (promotion.manifest_of(registry.store, one.digest) for one in (release, live))
    broken = compatibility.breaks(new, old)
    if not broken:
        return None
    return errors.GateRefused(
        f"{named} does not take what callers of {previews.named(live)} send: {'; '.join(broken)}.",
        hint='Repeat with --force --reason "..." if the callers are ready for it.',
    )


def usable(registry: registries.Registry, release: deployment.Release) -> deployment.Release:
    """A release that served before, looked up again: its status and its signature may have changed."""
    ref = f"{release.name}@{release.version}"
    return msgspec.structs.replace(resolve(registry, ref), ref=release.ref or ref)


def _way(kind: str, named: str) -> str:
    if kind == "evaluation":
        return f"windlass check {named} --data FILE --labels COLUMN --metric accuracy --min 0.9"
    if kind in ("parity", "verify"):
        return f"windlass verify {named}"
    return f"windlass models show {named}"
