"""Where a training run stands, as one file: it goes on from there after an interruption.

Written and read by the training loop. Must never leave half a file behind, nor believe one that is not the same run's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from windlass import errors
from windlass.types import tensor_codec

_PROGRESS = "progress"


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a run is: `steps` of `total` batches after `seconds`; `best` is the lowest holdout loss that counts.

    `history` are the holdout losses so far; `limited` says that the time allows no more steps; `ended` says why it
    ended, empty while it has not.
    """

    run: str
    total: int
    steps: int = 0
    seconds: float = 0.0
    best: float | None = None
    history: tuple[float, ...] = ()
    limited: str = ""
    ended: str = ""


class Kept:
    """The file of one run in a folder; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, run: str) -> None:
        self.run = run
        self.path = folder / f"fit-{run[:16]}.tensors" if folder is not None else None

    def write(self, progress: Progress, tensors: dict[str, dict[str, torch.Tensor]]) -> None:
        """Replace what was kept: either the old state or the new one is there at any time."""
        if self.path is None:
            return
        arrays = {f"{part}/{name}": value.numpy() for part, named in tensors.items() for name, value in named.items()}
        arrays[_PROGRESS] = np.frombuffer(msgspec.json.encode(progress), np.uint8)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".part")
        unfinished.write_bytes(tensor_codec.pack(arrays))
        unfinished.replace(self.path)

    def read(self) -> tuple[Progress, dict[str, dict[str, torch.Tensor]]] | None:
        """What was kept of this very run; None if nothing was, or it cannot be read."""
        if self.path is None:
            return None
        try:
            arrays = tensor_codec.unpack(self.path.read_bytes())
            progress = msgspec.json.decode(arrays.pop(_PROGRESS).tobytes(), type=Progress)
        except (OSError, KeyError, msgspec.MsgspecError, errors.CorruptPackage):
            return None
        if progress.run != self.run:
            return None
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, array in arrays.items():
            part, _, inner = name.partition("/")
            parts.setdefault(part, {})[inner] = torch.from_numpy(np.array(array))
        return progress, parts


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's moments by `<parameter's index>/<name>`."""
    held: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {f"{index}/{name}": value for index, named in held.items() for name, value in named.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put the moments back."""
    held: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, _, inner = name.partition("/")
        held.setdefault(int(index), {})[inner] = value
    optimizer.load_state_dict({"state": held, "param_groups": optimizer.state_dict()["param_groups"]})
