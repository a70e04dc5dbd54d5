"""A fleet as its operators see it: status, metrics and outcomes of all workers together.

Made by the supervisor, asked through `admin.py`. Must never count anything itself.
"""

from __future__ import annotations

import os
import time
from typing import Any

from windlass.serving import fleet
from windlass.serving.metrics import exposition as metrics
from windlass.serving.metrics import outcomes
from windlass.types import spec


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
        """The fleet's, and the supervisor's own."""
        own = {"pid": os.getpid(), "started": self._started, "addresses": self._addresses}
        return own | await self._fleet.status()

    async def metrics(self) -> bytes:
        """The exposition of everything, in Prometheus' text format."""
        now = await self._fleet.status()
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
