"""Whether a release may be deployed: by the registry's rules, and by the evidence that there is and has to be.

Called by `deployments.py` before a wish is stored. Must never let anything pass that is in quarantine or deleted,
whoever forces it.
"""

from __future__ import annotations

import msgspec

from windlass import errors, references
from windlass.desired import previews
from windlass.registry import registry as registries
from windlass.types import deployment, refs

# Checks of the package itself: whose last finding is a refusal stands in the way, asked for or not.
_CHECKS = ("parity", "verify", "evaluation", "manual")
_FORCE = '(or repeat with --force --reason "...")'


def resolve(registry: registries.Registry, text: str) -> deployment.Release:
    """The release that a reference means now; `GateRefused` for one in quarantine, `NotFound` for one deleted."""
    ref = refs.parse(text)
    try:
        found = registry.resolve(ref)
    except errors.NotAllowed as e:
        raise errors.GateRefused(
            e.message,
            hint=f"Choose another version (windlass models list {ref.name}), or check it again: windlass verify",
        ) from None
    exact = refs.Ref(kind="version", name=found.name, version=found.version)
    return deployment.Release(
        name=found.name,
        version=found.version,
        digest=found.digest,
        ref=text,
        signature=references.signature_of(registry, exact),
    )


def admit(
    registry: registries.Registry,
    release: deployment.Release,
    live: deployment.Release | None,
    policy: tuple[str, ...],
    *,
    force: bool,
) -> None:
    """`GateRefused`, with the way out, unless a release may be deployed in place of the live one.

    By the registry's own rules (`Registry.admit`), and by its evidence: none that the policy asks for is missing, and
    no check of the package itself failed the last time. `force` passes over evidence, status and contract.
    """
    registry.admit(release, over=live, force=force)
    if force:
        return
    named = previews.named(release)
    shown = registry.show(refs.Ref(kind="version", name=release.name, version=release.version))
    last: dict[str, str] = {found.evidence.kind: found.evidence.verdict for found in shown.evidence}
    for kind in dict.fromkeys((*policy, *_CHECKS)):
        if last.get(kind, "passed") != "passed":
            raise errors.GateRefused(f"{named} failed its last {kind}.", hint=f"See: {_way(kind, named)} {_FORCE}")
        if kind in policy and kind not in last:
            raise errors.GateRefused(
                f"the policy asks for passed evidence of the kind '{kind}', and {named} has none.",
                hint=f"Run: {_way(kind, named)} {_FORCE}",
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
