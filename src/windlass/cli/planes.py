"""Opens what a command acts on: the rows of the home, or a control plane where `--server` names one.

Used by every command that reads or changes what is kept. What is behind a network has the methods and values of what is
here, so no command asks which it is. Must never fall back from one to the other.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, cast

from windlass import errors, references
from windlass.cli import journal, output
from windlass.records import keys as key_rows
from windlass.records import leases
from windlass.registry import registry as registries
from windlass.storage import database
from windlass.types import evidence, refs


@contextlib.contextmanager
def registry(context: output.Context) -> Iterator[registries.Registry]:
    """The registry in force."""
    if far(context):
        from windlass.remote import registry as remote

        found = cast("registries.Registry", remote.Registry(_plane(context)))
    else:
        found = references.open_registry(context.settings)
    with contextlib.closing(found):
        yield found


@contextlib.contextmanager
def keys(context: output.Context) -> Iterator[key_rows.Keys]:
    """The API keys in force."""
    if far(context):
        from windlass.remote import keys as remote

        found = cast("key_rows.Keys", remote.Keys(_plane(context)))
    else:
        found = references.open_keys(context.settings)
    with contextlib.closing(found):
        yield found


@contextlib.contextmanager
def deployments(context: output.Context) -> Iterator[Any]:
    """The deployments in force: a `desired.deployments.Deployments`, or the one behind a control plane."""
    if far(context):
        from windlass.remote import deployments as remote

        with contextlib.closing(remote.Deployments(_plane(context))) as found:
            yield found
        return
    from windlass.desired import deployments as desired

    with rows(context) as opened, contextlib.closing(references.open_registry(context.settings)) as known:
        yield desired.Deployments(opened, known, context.settings.policy.require)


@contextlib.contextmanager
def audit(context: output.Context) -> Iterator[journal.Journal]:
    """The audit log in force."""
    if far(context):
        from windlass.remote import audit as remote

        with contextlib.closing(remote.Audit(_plane(context))) as found:
            yield cast("journal.Journal", found)
        return
    with rows(context) as opened:
        yield journal.Journal(opened)


@contextlib.contextmanager
def rows(context: output.Context) -> Iterator[database.Database]:
    """The home's database."""
    with contextlib.closing(database.open_database(context.settings.database_url)) as found:
        yield found


def far(context: output.Context) -> bool:
    """Whether it goes through a control plane."""
    return bool(context.settings.client.server)


def package(context: output.Context, known: registries.Registry, digest: str) -> Any:
    """A version's `archive.Package`, from the home's blobs or a control plane's."""
    if far(context):
        return cast("Any", known).package(digest)
    from windlass.packaging import archive

    return archive.open_store(known.store, digest)


def checked(known: registries.Registry, ref: refs.Ref) -> evidence.Evidence:
    """What a control plane finds when it checks a version again."""
    return cast("evidence.Evidence", cast("Any", known).verify(ref))


def controlled(context: output.Context) -> bool:
    """Whether a controller is at work on what is wished; behind a control plane one is taken to be."""
    if far(context):
        return True
    with rows(context) as opened, opened.read() as connection:
        holder, until = leases.holder_of(connection, leases.CONTROLLER)
    return bool(holder) and until > time.time()


def here(context: output.Context, what: str) -> None:
    """`Unsupported` for a command that acts on this machine alone, where a server is named."""
    if far(context):
        raise errors.Unsupported(
            f"{what} acts on the home of this machine, not through a control plane.", hint="Leave out --server."
        )


def _plane(context: output.Context) -> Any:
    from windlass.client import plane

    return plane.Plane(context.settings.client.server, key=context.settings.client.key)
