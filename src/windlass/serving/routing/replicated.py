"""A worker's models as its callers see them: read here, but loaded and unloaded in all workers of the server at once.

Given to the door of a worker in place of its pool. Must never answer a load before every worker has the model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from windlass import errors
from windlass.types import directory

log = logging.getLogger(__name__)
Done: TypeAlias = Callable[[errors.WindlassError | None], None]


class Replicated:
    """Implements `types.directory.ModelDirectory`: everything but `load` and `unload` is the pool's own."""

    def __init__(self, models: directory.ModelDirectory, change: Callable[[str, bool], Awaitable[Any]]) -> None:
        """`change(name, load)` returns when all workers have changed, or raises."""
        self.find = models.find
        self.states = models.states
        self.live = models.live
        self.ready = models.ready
        self.statistics = models.statistics
        self.config = models.config
        self._change = change
        self._tasks: set[asyncio.Task[None]] = set()

    def load(self, name: str, done: Done) -> None:
        """Load (or reload) a repository model by name, everywhere."""
        self._begin(name, done, load=True)

    def unload(self, name: str, done: Done) -> None:
        """Unload a repository model everywhere; it can be loaded again."""
        self._begin(name, done, load=False)

    def _begin(self, name: str, done: Done, *, load: bool) -> None:
        task = asyncio.get_running_loop().create_task(self._finish(name, load, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, name: str, load: bool, done: Done) -> None:
        try:
            await self._change(name, load)
        except errors.WindlassError as e:
            done(e)
        except Exception as e:  # whoever asked must be answered
            log.exception("model '%s' could not be changed everywhere", name, exc_info=e)
            done(errors.InternalError(f"failed to change '{name}' in all workers"))
        else:
            done(None)
