"""The page of a study: one HTML file that holds everything and asks nobody for anything.

Called by the commands that write reports. Must never refer to another file, run a script, or put a name into the page
without escaping it.
"""

from __future__ import annotations

from windlass.optimization import findings


def page(found: findings.Report) -> str:
    """The whole page, as text to be written in UTF-8."""
    raise NotImplementedError
