"""The plane: what the API acts on, in one value.

Made by whoever starts the API, handed to every route. Must never hold what belongs to one request.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from windlass import settings
from windlass.desired import deployments as desired
from windlass.records import keys as key_rows
from windlass.registry import registry
from windlass.storage import database


class Plane(msgspec.Struct, frozen=True):
    """What the API acts on. `settings` are those in force: the host names that are answered, and the home."""

    rows: database.Database
    registry: registry.Registry
    deployments: desired.Deployments
    keys: key_rows.Keys
    settings: settings.Settings
    clock: Callable[[], float] = time.time
