"""The server's program, `python -m windlass.serving --spec FILE`, started by the CLI and the Python face.

Its first worker is begun before the rest is read: both import their libraries at once. Must never do more than that.
"""

from __future__ import annotations

from windlass.serving import starting

if __name__ == "__main__":
    starting.detach()
first = starting.Starting() if __name__ == "__main__" else None

from windlass.serving import supervisor  # noqa: E402 - the worker comes first

if first is not None:
    supervisor.main(first)
