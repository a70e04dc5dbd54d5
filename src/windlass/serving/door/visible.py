"""The models of a server as one caller may see them: what is not for it does not exist.

Made by the door for callers whose key names models. Must never answer differently for a model that is hidden and one
that is not there.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any

from windlass import errors
from windlass.types import directory


def allows(globs: tuple[str, ...], name: str) -> bool:
    """Whether a name is one of those that the globs stand for."""
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def unknown(name: str) -> errors.NotFound:
    """What is said of a model that does not exist, in the words that clients look for."""
    return errors.NotFound(f"Request for unknown model: '{name[:128]}' is not found")


class Visible:
    """A `types.directory.ModelDirectory` that holds only the models of some globs."""

    def __init__(self, models: directory.ModelDirectory, globs: tuple[str, ...]) -> None:
        self._models = models
        self._globs = globs

    def find(self, name: str, version: str = "") -> directory.ModelView:
        """The endpoint, if it is visible."""
        self._check(name)
        return self._models.find(name, version)

    def states(self) -> tuple[directory.ModelState, ...]:
        """The visible lines of the index."""
        return tuple(state for state in self._models.states() if allows(self._globs, state.name))

    def live(self) -> bool:
        """As for everybody."""
        return self._models.live()

    def ready(self) -> bool:
        """As for everybody."""
        return self._models.ready()

    def statistics(self, name: str = "", version: str = "") -> tuple[directory.ModelStatistics, ...]:
        """Counts of the visible models."""
        if name:
            self._check(name)
        return tuple(s for s in self._models.statistics(name, version) if allows(self._globs, s.name))

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        """What is in force for a visible model."""
        self._check(name)
        return self._models.config(name, version)

    def load(self, name: str, done: Callable[[errors.WindlassError | None], None]) -> None:
        """Load a visible repository model."""
        self._models.load(name, done) if allows(self._globs, name) else done(unknown(name))

    def unload(self, name: str, done: Callable[[errors.WindlassError | None], None]) -> None:
        """Unload a visible repository model."""
        self._models.unload(name, done) if allows(self._globs, name) else done(unknown(name))

    def _check(self, name: str) -> None:
        if not allows(self._globs, name):
            raise unknown(name)
