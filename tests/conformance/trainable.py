"""Small networks with something to learn, for suites about what trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from windlass.optimization import form as forms
from windlass.optimization.techniques import base
from windlass.optimization.training import export, fit
from windlass.types import signature

# Networks as small as these are slower on several threads, the more so the busier the machine is.
torch.set_num_threads(1)
CLASSES = 4
SIGNATURE = signature.Signature(
    (signature.TensorSpec("image", "FP32", ("batch", 1, 8, 8)),),
    (signature.TensorSpec("logits", "FP32", ("batch", CLASSES)),),
)


class Convolutions(torch.nn.Module):
    """Two convolutions with normalization and a residual sum, then two linear layers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(width)
        self.second = torch.nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = torch.nn.BatchNorm2d(width)
        self.wide = torch.nn.Linear(width * 4, 2 * width)
        self.head = torch.nn.Linear(2 * width, CLASSES)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.norm(self.first(image)))
        x = torch.relu(x + self.norm2(self.second(x)))
        x = torch.nn.functional.avg_pool2d(x, 4).flatten(1)
        return {"logits": self.head(torch.relu(self.wide(x)))}


def network(seed: int = 0, width: int = 16) -> Convolutions:
    """An untrained network, the same for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Convolutions(width).eval()


def rows(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images of noise with one of four gratings in them, and which it is."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    y, x = np.mgrid[0:8, 0:8]
    waves = np.stack([np.sin(2.2 * x), np.sin(2.2 * y), np.sin(1.6 * (x + y)), np.sin(1.6 * (x - y))])
    sign = rng.choice([-1.0, 1.0], count)[:, None, None]
    images = 0.9 * sign * waves[labels] + rng.standard_normal((count, 8, 8))
    return images[:, None].astype(np.float32), labels.astype(np.int64)


def lesson(count: int = 1024, held: int = 256) -> base.Lesson:
    """Rows to learn from and rows held out."""
    images, labels = rows(count, 1)
    held_images, held_labels = rows(held, 2)
    return base.Lesson({"image": images}, labels, {"image": held_images}, held_labels)


def materials(folder: Path, **more: Any) -> base.Materials:
    """What a technique may use; its time stands still."""
    taught = lesson()
    calibration = tuple({"image": taught.inputs["image"][start : start + 64]} for start in (0, 64))
    return base.Materials(SIGNATURE, calibration, folder, **{"lesson": taught, "clock": lambda: 0.0, **more})


def trained(epochs: float = 6) -> Any:
    """A network that has learned its lesson."""
    return fit.fit(network(), lesson(), fit.Plan(("image",), epochs=epochs, rate=3e-3, threads=1)).network


def form(net: Any, folder: Path) -> forms.Form:
    """Its form as the original."""
    made = export.to_form(net, forms.Form({}), forms.Step("packaged"), materials(folder))
    return forms.Form(made.files, network=net)


def unbalanced(net: Any, spread: float) -> Any:
    """A copy that computes the same, with channels of very unequal size: hard to hold in 8 bits."""
    with torch.no_grad():
        copy = fit.networks.copied(net)
        factors = torch.exp(torch.linspace(-spread, spread, copy.wide.out_features))
        copy.wide.weight.mul_(factors[:, None])
        copy.wide.bias.mul_(factors)
        copy.head.weight.div_(factors)
    return copy
