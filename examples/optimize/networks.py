"""The networks of the optimization examples: untrained, and with the weights that `train.py` wrote.

Each function takes nothing and gives a module, so that `module:function` names it on the command line. Must never
train anything.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import safetensors.torch
import torch
from examples.optimize import characters, tabular
from torch import nn

KEPT = Path("build/optimize")


class Residual(nn.Module):
    """Two 3x3 convolutions; the second adds to the first (He et al., 2016). Halves the image first."""

    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(taken, given, 3, padding=1, bias=False), nn.BatchNorm2d(given), nn.ReLU()
        )
        self.more = nn.Sequential(nn.Conv2d(given, given, 3, padding=1, bias=False), nn.BatchNorm2d(given))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[rows, taken, n, n]` to `[rows, given, n/2, n/2]`."""
        x = self.down(x)
        return torch.relu(x + self.more(x))


def _convolutional(*widths: int) -> nn.Sequential:
    first = widths[0]
    stem = [nn.Conv2d(1, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
    stages = [Residual(taken, given) for taken, given in itertools.pairwise(widths)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(widths[-1], len(characters.NAMES))]
    return nn.Sequential(*stem, *stages, *head)


def character_cnn() -> nn.Module:
    """0.67 M parameters, 25 M multiplications a character: `[rows, 1, 32, 32]` to 47 logits."""
    return _convolutional(32, 48, 96, 192)


def character_student() -> nn.Module:
    """The same shape, a ninth of the parameters: what a teacher teaches."""
    return _convolutional(8, 16, 32, 64)


def wide_mlp() -> nn.Module:
    """1.3 M parameters over the table of `tabular.py`: `[rows, 64]` to 8 logits."""
    return nn.Sequential(
        *(nn.Linear(tabular.COLUMNS, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU()),
        *(nn.Linear(1024, 192), nn.ReLU(), nn.Linear(192, tabular.CLASSES)),
    )


def trained(name: str, seed: int = 0) -> nn.Module:
    """The named network with the weights that `python -m examples.optimize.train NAME --seed SEED` wrote, for use."""
    network = {"character_cnn": character_cnn, "character_student": character_student, "wide_mlp": wide_mlp}[name]()
    path = KEPT / f"{name}-{seed}.safetensors"
    if not path.exists():
        raise SystemExit(f"{path} is missing: train it with python -m examples.optimize.train {name} --seed {seed}")
    safetensors.torch.load_model(network, path)
    return network.eval()


def write(network: nn.Module, name: str, seed: int = 0) -> None:
    """Keep the weights where `trained` finds them."""
    KEPT.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_model(network, KEPT / f"{name}-{seed}.safetensors")


def trained_character_cnn() -> nn.Module:
    """`character_cnn`, trained with seed 0."""
    return trained("character_cnn")


def trained_character_student() -> nn.Module:
    """`character_student`, trained with seed 0 and without a teacher."""
    return trained("character_student")


def trained_wide_mlp() -> nn.Module:
    """`wide_mlp`, trained with seed 0."""
    return trained("wide_mlp")
