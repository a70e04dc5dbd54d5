"""Controllers in processes of their own over one home, which write down what they do and end when they are told to.

Started by the drills of rollouts: `controlled.py HOME DATABASE ACTS TTL_S DIES`. Each spec that a controller puts in
force is a line of JSON in ACTS, with the token of the lease under which it was permitted. DIES 0: one controller, until
it is killed. DIES n: one after the other, the first killed by its own hand at its n-th act or write, the next at its
n+1st, and so on: a rollout that they end together was broken off at many places. Must never be started but by a test.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from windlass import errors, references, settings
from windlass.client import control
from windlass.controller import deployments, lead, loop
from windlass.storage import database
from windlass.types import spec

HOME, DATABASE, ACTS, TTL_S, DIES = sys.argv[1:]
permitted = threading.local()
events = iter(range(sys.maxsize))
dies_at = sys.maxsize


def event() -> None:
    """Here it may be killed."""
    if next(events) >= dies_at:
        os.kill(os.getpid(), signal.SIGKILL)


def note(**said: Any) -> None:
    with Path(ACTS).open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), "at": time.time(), **said}) + "\n")


class Leading(lead.Lead):
    """Remembers under which token the last act of this thread was permitted."""

    def __init__(self, rows: database.Database, clock: Callable[[], float]) -> None:
        super().__init__(rows, clock, ttl_s=float(TTL_S))

    def check(self) -> None:
        token = self._token
        super().check()
        permitted.token = token


class Noting(control.Control):
    """Notes what it puts in force, and what it could not."""

    def apply(self, wanted: spec.Spec) -> None:
        arms = {e.name: {arm.name: arm.share for arm in e.arms} for e in wanted.endpoints}
        event()
        began, error = time.time(), ""
        try:
            super().apply(wanted)
        except Exception as e:
            error = type(e).__name__
            raise
        finally:
            token = getattr(permitted, "token", None)
            note(what="spec", began=began, token=token, generation=wanted.generation, arms=arms, error=error)
        event()

    def outcomes(self) -> dict[str, Any]:
        if Path(f"{ACTS}.mute").exists():
            raise errors.InternalError("the outcomes are not to be had")
        return super().outcomes()


class Reconciling(deployments.Reconciler):
    """May be killed after each decision that it stored."""

    def _store(self, *given: Any, **named: Any) -> int:
        number = super()._store(*given, **named)
        event()
        return number

    def _end(self, *given: Any, **named: Any) -> None:
        super()._end(*given, **named)
        event()


def run() -> None:
    flags = {
        "home": Path(HOME),
        "registry.db": DATABASE,
        "serve.port": 0,
        "serve.admin_port": 0,
        "up.interval_s": 0.2,
        "up.warm_s": 0.0,
    }
    configuration = settings.load(flags)
    rows = database.open_database(configuration.database_url)
    registry = references.open_registry(configuration)
    note(what="began")
    loop.compose(configuration, rows, registry).run(threading.Event())


lead.Lead = Leading  # type: ignore[misc]
control.Control = Noting  # type: ignore[misc]
deployments.Reconciler = Reconciling  # type: ignore[misc]
if int(DIES) == 0:
    run()
for number in range(int(DIES), sys.maxsize):
    child = os.fork()
    if child == 0:
        dies_at = number
        run()
    os.waitpid(child, 0)
