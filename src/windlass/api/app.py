"""The API of the control plane: everything that people and programs ask of it, over HTTP.

Made by `windlass up`. It writes wishes and reads rows; the controller does the rest. Must never load a model, nor serve
a route that declares no permission.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import fastapi
import msgspec

from windlass import settings
from windlass.desired import deployments
from windlass.records import keys
from windlass.registry import registry
from windlass.storage import database


class Plane(msgspec.Struct, frozen=True):
    """What the API acts on. `settings` are those in force: the host names that are answered, and the home."""

    rows: database.Database
    registry: registry.Registry
    deployments: deployments.Deployments
    keys: keys.Keys
    settings: settings.Settings
    clock: Callable[[], float] = time.time


def create(plane: Plane) -> fastapi.FastAPI:
    """The application, for an ASGI server. `ValueError` if a route declares no permission."""
    raise NotImplementedError
