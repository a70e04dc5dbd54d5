"""The controller: looks at every deployment again and again, and brings what runs to what is wanted.

Composed and run by the CLI, on a thread of its own. Of several on one database one acts. Must never end because
something it needs does not answer, and never load a model in its own process.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from windlass import errors, settings
from windlass.controller import acting, deployments, feedback, jobs, lead, patience, webhooks
from windlass.records import answers, outbox
from windlass.records import deployments as stored
from windlass.registry import registry as registries
from windlass.storage import database
from windlass.targets import local
from windlass.types import spec

log = logging.getLogger(__name__)
# A deployment at rest is looked at this often: its server may have been started again, its release revoked.
REST_S = 5.0
_AT_ONCE = 16
_MOST = 1_000_000
_HOURLY_S = 3600.0
# How soon a wish is seen; what is under way is looked at once in an interval.
_WISHES_S = 0.2
# What failed is tried again after this time at the latest.
_LONGEST_S = 15.0
_MOVING = ("PREPARING", "RUNNING", "PAUSED", "PROMOTING", "RETURNING")
# A renewal that comes this late has already been given to another.
_BEATS = 4


class Chore(Protocol):
    """Work beside the deployments: True if there may be more at once."""

    def __call__(self, stop: threading.Event) -> bool: ...


class Controller:
    """One controller. `chores` run on threads of their own, while it leads."""

    def __init__(
        self,
        rows: database.Database,
        leading: lead.Lead,
        reconciler: deployments.Reconciler,
        clock: Callable[[], float],
        *,
        interval_s: float = 1.0,
        chores: Mapping[str, Chore] | None = None,
    ) -> None:
        self._rows = rows
        self._lead = leading
        self._reconciler = reconciler
        self._clock = clock
        self._interval_s = interval_s
        self._chores = dict(chores or {})
        self._patience = patience.Patience(longest_s=_LONGEST_S)
        self._looked: dict[str, tuple[int, float]] = {}
        self._known: tuple[stored.Deployment, ...] = ()
        self._read: tuple[int | None, float] = (None, 0.0)
        self._at_work: set[str] = set()
        self._changing = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; then the lead is given back. What is being applied is left to whoever comes next."""
        threads = [
            threading.Thread(target=self._chore, args=(name, chore, stop), name=f"controller-{name}", daemon=True)
            for name, chore in self._chores.items()
        ]
        threads.append(threading.Thread(target=self._beat, args=(stop,), name="controller-lead", daemon=True))
        for thread in threads:
            thread.start()
        while not stop.is_set():
            try:
                if self._lead.held:
                    self._look(stop)
            except errors.WindlassError as e:
                log.warning("the rows cannot be read: %s", e)
            stop.wait(min(self._interval_s, _WISHES_S))
        for thread in threads:
            thread.join(self._interval_s)
        try:
            self._lead.release()
        except errors.WindlassError as e:
            log.warning("the lead was not given back: %s", e)

    def once(self) -> None:
        """One look at everything that is due, here and now; deployments that have more to do are looked at on."""
        if self._lead.beat():
            for name, generation in self._due():
                self._work(name, generation, threading.Event())

    def _beat(self, stop: threading.Event) -> None:
        failures, led = 0, False
        while not stop.is_set():
            wait = lead.TTL_S / _BEATS
            try:
                leads = self._lead.beat()
                failures = 0
                # Each beat is a write to the disk: who leads need not be quick, but who waits for the lead is.
                wait = wait if leads else min(self._interval_s, wait)
            except errors.WindlassError as e:
                leads = False
                failures += 1
                wait = patience.pause(failures, first_s=min(self._interval_s, wait), longest_s=10.0)
                log.warning("the database does not answer, what is served goes on: %s", e)
            if leads != led:
                led = leads
                log.info("%s the lead", "took" if led else "does not have")
            stop.wait(wait)

    def _look(self, stop: threading.Event) -> None:
        """Give every deployment that is due a thread, up to so many at once."""
        for name, generation in self._due():
            with self._changing:
                if name in self._at_work or len(self._at_work) >= _AT_ONCE:
                    continue
                self._at_work.add(name)
            work = threading.Thread(
                target=self._work, args=(name, generation, stop), name=f"deployment-{name}", daemon=True
            )
            work.start()

    def _due(self) -> list[tuple[str, int]]:
        """The deployments to look at, whoever waited longest first, with the generations of their wishes."""
        due: list[tuple[float, str, int]] = []
        now = self._clock()
        for one in self._wishes(now):
            generation, at = self._looked.get(one.name, (-1, 0.0))
            if one.generation != generation:
                # Somebody wished something: what failed before is no reason to wait.
                self._patience.worked(one.name)
            elif not self._patience.due(one.name, now) or 0 <= now - at < self._pause(one):
                continue
            due.append((at, one.name, one.generation))
        return [(name, generation) for _, name, generation in sorted(due)]

    def _wishes(self, now: float) -> tuple[stored.Deployment, ...]:
        """Every deployment, read again where somebody has written since, or after an interval at the latest."""
        stamp = self._rows.stamp()
        if stamp is not None and stamp == self._read[0] and 0 <= now - self._read[1] < self._interval_s:
            return self._known
        with self._rows.read() as connection:
            self._known = stored.every(connection, limit=_MOST, removed=True)
        self._read = stamp, now
        return self._known

    def _pause(self, one: stored.Deployment) -> float:
        """Seconds between two looks at a deployment."""
        if one.status.phase in _MOVING or one.status.generation != one.generation:
            return self._interval_s
        return REST_S if one.removed_at is None else math.inf

    def _work(self, name: str, generation: int, stop: threading.Event) -> None:
        try:
            while not stop.is_set() and self._reconciler.reconcile(name):
                pass
            self._patience.worked(name)
        except (deployments.Stale, lead.Lost) as e:
            log.info("'%s': %s", name, e.message)
        except Exception as e:  # noqa: BLE001 - one deployment's fault is not the others'
            self._failed(name, e)
        finally:
            # A wish that came meanwhile has a generation of its own, and is looked at without a wait.
            self._looked[name] = (generation, self._clock())
            with self._changing:
                self._at_work.discard(name)

    def _failed(self, name: str, error: Exception) -> None:
        wait = self._patience.failed(name, self._clock())
        known = isinstance(error, errors.WindlassError)
        log.warning("'%s' is tried again in %.0f s: %s", name, wait, error, exc_info=None if known else error)
        words = error.message if isinstance(error, errors.WindlassError) else f"a fault of ours: {type(error).__name__}"
        try:
            self._reconciler.trouble(name, words)
        except errors.WindlassError as e:
            log.info("'%s': its trouble was not written down: %s", name, e.message)

    def _chore(self, name: str, chore: Chore, stop: threading.Event) -> None:
        failures = 0
        while not stop.is_set():
            wait = self._interval_s
            try:
                if self._lead.held and chore(stop):
                    wait = 0.0
                failures = 0
            except Exception as e:  # noqa: BLE001 - it is tried again, and the deployments go on
                failures += 1
                wait = patience.pause(failures, first_s=self._interval_s, longest_s=60.0)
                log.warning("%s: tried again in %.0f s: %s", name, wait, e)
            stop.wait(wait)


class Housekeeping:
    """Forgets what was delivered long ago, and answers that nobody will ask for again."""

    def __init__(self, leading: lead.Lead, clock: Callable[[], float]) -> None:
        self._lead = leading
        self._clock = clock
        self._last = 0.0

    def __call__(self, stop: threading.Event) -> bool:
        """Once an hour."""
        del stop
        now = self._clock()
        if not 0 <= now - self._last < _HOURLY_S:
            with self._lead.write() as connection:
                outbox.forget(connection, now=now)
                answers.forget(connection, now=now)
            self._last = now
        return False


def compose(
    configuration: settings.Settings,
    rows: database.Database,
    registry: registries.Registry,
    *,
    template: spec.Spec | None = None,
    clock: Callable[[], float] = time.time,
) -> Controller:
    """The controller of a home, with its local server, jobs and webhooks; `template` as in `local.Local`."""
    leading = lead.Lead(rows, clock)
    here = local.Local(configuration, template=template, permitted=leading.check, clock=clock)
    hands = acting.Hands(leading, {local.NAME: here}, feedback.Feedback(rows, clock), clock)
    work = jobs.Jobs(leading, configuration, clock)
    hooks = webhooks.Webhooks(leading, configuration.webhooks, clock)
    return Controller(
        rows,
        leading,
        deployments.Reconciler(rows, leading, registry, hands, clock, warm_s=configuration.up.warm_s),
        clock,
        interval_s=configuration.up.interval_s,
        chores={
            "jobs": work.work,
            "webhooks": hooks.work,
            "keys": lambda _: here.tell_keys(),
            "housekeeping": Housekeeping(leading, clock),
        },
    )
