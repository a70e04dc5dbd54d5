"""The JSON answer that all HTTP protocols give.

Called by their encoders. Must never be handed anything that is not plain data.
"""

from __future__ import annotations

from typing import Any

import orjson

from windlass.protocols import base


def document(value: Any, status: int | None = None) -> base.Answer:
    """An answer whose body is `value` as JSON."""
    return base.Answer(orjson.dumps(value), status=status)
