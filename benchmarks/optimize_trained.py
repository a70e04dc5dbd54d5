"""Studies of networks that are trained in place."""

from __future__ import annotations

from typing import Any

STUDIES: dict[str, Any] = {}
