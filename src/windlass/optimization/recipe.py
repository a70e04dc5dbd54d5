"""A recipe: the steps from a version to its optimized form, as TOML that a person can read and replay.

Written by `study`, read again for `--replay`. Must never take a key that it does not know, nor run anything.
"""

from __future__ import annotations

import msgspec

from windlass.optimization import form as forms


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What leads from `parent` (a package's digest) to a form. `seed` is that of every step and of the data's split.

    `result` is the digest of the form that came of it (`Form.digest`), `data` the digest of the data set, `software`
    and `isa` what it was made with. `trains`: a step trains, so that other software or another machine may give other
    bytes.
    """

    parent: str
    seed: int
    steps: tuple[forms.Step, ...]
    result: str = ""
    data: str = ""
    software: str = ""
    isa: str = ""
    trains: bool = False


def write(value: Recipe) -> str:
    """The TOML text; `read` gives the same value again."""
    raise NotImplementedError


def read(text: str) -> Recipe:
    """The recipe in a TOML text; `UsageError` names the line or key that is wrong."""
    raise NotImplementedError
