"""A fleet as its operators see it: status, metrics and outcomes of all workers together.

Made by the supervisor, asked through `admin.py`. Must never count anything itself.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from windlass.serving import channel, fleet
from windlass.serving.metrics import exposition as metrics
from windlass.serving.metrics import outcomes
from windlass.types import spec

_ANSWER_S = 1.0


class Overview:
    """One fleet, and where its server listens."""

    def __init__(self, workers: fleet.Fleet, addresses: dict[str, str]) -> None:
        """`addresses` are the URLs of the server's ports, by their names in the spec."""
        self.ready = workers.ready
        self.apply = workers.apply
        self.restart = workers.restart
        self._fleet = workers
        self._addresses = addresses
        self._started = time.time()
        self._facts = metrics.Facts(0)
        self._exporter = metrics.Exporter(workers.memory.read, lambda: self._facts)

    def current(self) -> spec.Spec:
        """The spec in force."""
        return self._fleet.spec

    async def status(self) -> dict[str, Any]:
        """Every worker, and the models as the one with the newest spec tells them; and the supervisor's own."""
        workers = self._fleet
        members = workers.places.living()
        answers = await asyncio.gather(
            *(one.ask(channel.Status(), _ANSWER_S) for one in members), return_exceptions=True
        )
        told = [answer if isinstance(answer, dict) else None for answer in answers]
        newest = max(filter(None, told), key=lambda t: t["generation"], default={"generation": 0, "models": []})
        plan, other = workers.plan, workers.next_plan
        otherwise = "" if other.workers == plan.workers else other.reason
        return {
            "pid": os.getpid(),
            "started": self._started,
            "addresses": self._addresses,
            "generation": newest["generation"],
            "ready": workers.ready(),
            "plan": msgspec.to_builtins(plan) | {"after_a_new_start": otherwise},
            "fell_back": workers.fell_back,
            "restarts": workers.restarts,
            "workers": [workers.places.about(one, answer) for one, answer in zip(members, told, strict=True)],
            "models": newest["models"],
            "refused": {
                "reason": workers.refused,
                "arms": _once(one for each in told if each for one in each["refused"]),
            },
        }

    async def metrics(self) -> bytes:
        """The exposition of everything, in Prometheus' text format."""
        now = await self.status()
        models = [
            metrics.Model(m["name"], m["version"], m.get("arm", ""), m["load_s"], m["bytes"])
            for m in now["models"]
            if m["state"] == "READY"
        ]
        ages = [(str(w["place"]), w["heartbeat_age_s"]) for w in now["workers"] if w["heartbeat_age_s"] is not None]
        self._facts = metrics.Facts(now["generation"], tuple(models), now["restarts"], tuple(ages))
        return self._exporter.text()

    def outcomes(self) -> dict[str, Any]:
        """What came of requests, by endpoint and arm."""
        return outcomes.document(self._fleet.memory.read(), self._fleet.known())


def _once(told: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """What several workers say alike, once for each arm."""
    return list({(one["name"], one["arm"]): one for one in told}.values())
