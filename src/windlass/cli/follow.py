"""Tells the running servers of this home that an alias moved.

Called after every move by the CLI. The data plane knows no registry: it is given a new spec over its control socket.
Must never move an alias itself, nor touch an endpoint that was pinned to a version.
"""

from __future__ import annotations

import contextlib

import msgspec

from windlass import errors, references
from windlass.cli import output
from windlass.client import control
from windlass.serving import launch
from windlass.types import refs, spec

_TRIES = 20


def alias_moved(context: output.Context, name: str, alias: str) -> None:
    """Give every server that follows `name:alias` (or the bare name, for `production`) the version it means now.

    A server that refuses goes on with what it had: the error says so after all servers were told.
    """
    refused: list[str] = []
    for wanted in launch.running(context.settings.home):
        if not any(_follows(endpoint, name, alias) for endpoint in wanted.endpoints):
            continue
        talk = control.Control(wanted.control)
        try:
            endpoints = _renew(context, talk, name, alias)
            version = next(e.arms[0].version for e in endpoints if e.name == name)
            where = talk.status()["addresses"]["listen"]
            context.say(f"the server on {where} now answers {name} with version {version}")
        except errors.WindlassError as e:
            refused.append(f"the server on {wanted.listen} keeps what it has: {e.message}")
        finally:
            talk.close()
    if refused:
        raise errors.GateRefused(
            "; ".join(refused), hint=f"Go back with: windlass models alias {name} {alias} --rollback"
        )


def _renew(context: output.Context, talk: control.Control, name: str, alias: str) -> tuple[spec.Endpoint, ...]:
    """The endpoints now in force; asked again where another move put its spec in force meanwhile."""
    for _ in range(_TRIES):
        current = talk.current()
        endpoints = tuple(
            _renewed(context, endpoint) if _follows(endpoint, name, alias) else endpoint
            for endpoint in current.endpoints
        )
        with contextlib.suppress(errors.Conflict):
            talk.apply(msgspec.structs.replace(current, endpoints=endpoints, generation=current.generation + 1))
            return endpoints
    raise errors.Unavailable("many change its spec at once")


def _follows(endpoint: spec.Endpoint, name: str, alias: str) -> bool:
    if endpoint.name != name or not endpoint.arms[0].ref:
        return False
    ref = refs.parse(endpoint.arms[0].ref)
    return (ref.kind == "alias" and ref.alias == alias) or (ref.kind == "default" and alias == refs.PRODUCTION)


def _renewed(context: output.Context, endpoint: spec.Endpoint) -> spec.Endpoint:
    fresh = references.endpoints(context.settings, [endpoint.arms[0].ref])[0]
    return msgspec.structs.replace(endpoint, arms=fresh.arms)
