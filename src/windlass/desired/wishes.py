"""Wishes: what a person or a file asks of one deployment, before any reference is resolved.

Written by the CLI, the API and `document.py`; turned into `types.deployment.Desired` by `deployments.py`. Must never
hold what only a registry knows: a wish is read and compared without one.
"""

from __future__ import annotations

import math

import msgspec

from windlass import errors, plugins
from windlass.types import deployment, refs


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`ref` is what is to answer under `name`; `against` are further references, for strategies that compare several.

    `alias` moves to the release when its rollout ends there; empty: none does.
    """

    name: str
    ref: str
    strategy: deployment.Strategy = deployment.Strategy()
    target: str = "local"
    serving: deployment.Serving = deployment.Serving()
    against: tuple[str, ...] = ()
    alias: str = refs.PRODUCTION


def check(wish: Wish) -> Wish:
    """The wish, if all of it that needs no registry is right; else `UsageError`, or `NotFound` naming the nearest."""
    refs.check_name(wish.name)
    if wish.alias:
        refs.check_alias(wish.alias)
    for text in (wish.ref, *wish.against):
        if refs.parse(text).kind == "path":
            raise errors.UsageError(
                f"'{text[:140]}' is a path: a deployment runs what the registry holds.",
                hint="Package it first: windlass package SOURCE --name NAME",
            )
    plugins.entry("targets", wish.target)
    for field in msgspec.structs.fields(deployment.Serving):
        value = getattr(wish.serving, field.name)
        if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
            raise errors.UsageError(
                f"serving.{field.name} is {value}: it is 0 or more.", hint="0 leaves it to the package or the server."
            )
    return wish
