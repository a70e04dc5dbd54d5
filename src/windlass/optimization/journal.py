"""What a study has measured so far, kept on disk as it goes, so that the same command goes on after Ctrl-C.

Written and read by `search` and `study`. Must never let a torn last line, or a file that is not what its name says, be
taken for a finding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from windlass.optimization import form as forms


class Journal:
    """Findings by key, and forms by digest, in a folder of one study. `None` as folder keeps nothing on disk."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: str) -> Any:
        """What was kept under a key (JSON), or None."""
        raise NotImplementedError

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON value under a key, at once and whole."""
        raise NotImplementedError

    def form(self, digest: str) -> forms.Form | None:
        """A form that was kept, or None where it is not whole."""
        raise NotImplementedError

    def keep(self, form: forms.Form) -> None:
        """Keep a form's files and what it is by its digest."""
        raise NotImplementedError
