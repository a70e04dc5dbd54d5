"""The versions of `digits` that `windlass demo --life` releases: better and worse ones, each for a reason that happens.

Loaded by `cli/life.py` only, for it needs the framework. Everything is seeded; what is held out is never trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import sklearn.datasets
import sklearn.model_selection
import torch

from windlass.cli import demo_models

_SEED = 11
_COPIES = 1_024
# So many held-out pictures, where asking about all would take longer than training.
_SOME = 60
_BITS = 4


class Version(msgspec.Struct, frozen=True):
    """One version: what it is for (`role`), why it is as it is, and how it did in its own test, of 1."""

    role: str
    story: str
    source: Any
    accuracy: float


class Data(msgspec.Struct, frozen=True):
    """Pictures, FP32 [n, 1, 8, 8] in [0, 1], and what they show: to train on, and held out."""

    train: torch.Tensor
    train_truth: torch.Tensor
    test: torch.Tensor
    test_truth: torch.Tensor

    def questions(self) -> tuple[list[bytes], list[str]]:
        """Every held-out picture as a PNG, and the right answers."""
        pictures = [demo_models.png(picture[0]) for picture in self.test.numpy()]
        return pictures, [str(truth) for truth in self.test_truth.tolist()]


class Averaged(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A network asked about noisy copies of each picture; the mean of its answers, for many times its price."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        noise = torch.randn(_COPIES, 1, 8, 8, generator=torch.Generator().manual_seed(_SEED)) * 0.05
        self.register_buffer("noise", noise)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`image`: FP32 [batch, 1, 8, 8]; the logits: FP32 [batch, 10]."""
        copies = (image[:, None] + self.noise[None]).reshape(-1, 1, 8, 8)
        logits: torch.Tensor = self.network(copies).reshape(-1, _COPIES, 10).mean(1)
        return logits


def data() -> Data:
    """scikit-learn's digits, split as the demo does."""
    found = sklearn.datasets.load_digits()
    pictures = (found.images[:, None] / 16.0).astype(np.float32)
    split = sklearn.model_selection.train_test_split(
        pictures, found.target, test_size=360, random_state=_SEED, stratify=found.target
    )
    train, test, train_truth, test_truth = (torch.from_numpy(part) for part in split)
    return Data(train, train_truth, test, test_truth)


def versions(given: Data, told: Callable[[int], None] = lambda _: None) -> list[Version]:
    """The first, a good, a slow, a wrong, a rounded and a better one; `told` after each."""
    made: list[Version] = []

    def add(role: str, story: str, network: torch.nn.Module, *, turned: bool = False) -> None:
        pictures = given.test.transpose(2, 3) if turned else given.test
        size = _SOME if role == "slow" else len(pictures)
        made.append(Version(role, story, network, _right(network, pictures[:size], given.test_truth[:size])))
        told(1)

    add("first", "trained for one epoch", _trained(given, 1))
    good = _trained(given, 3)
    add("good", "trained for three", good)
    add("slow", f"the good one, averaged over {_COPIES:,} noisy copies of each picture", Averaged(good))
    add("wrong", "trained and tested on pictures that were read sideways", _trained(given, 6, turned=True), turned=True)
    add("rounded", f"the good one, its weights rounded to {_BITS} bits", _rounded(good))
    add("better", "trained for twelve epochs", _trained(given, 12))
    return made


def _trained(given: Data, epochs: int, *, turned: bool = False) -> torch.nn.Module:
    torch.manual_seed(_SEED)
    network = demo_models.DigitNet()
    pictures = given.train.transpose(2, 3) if turned else given.train
    demo_models.train(network, pictures, given.train_truth, epochs, lambda _: None)
    return network.eval()


def _rounded(network: torch.nn.Module) -> torch.nn.Module:
    """A copy with the weights of each layer on so many levels, as a quantisation to fewer bits has them."""
    copy = demo_models.DigitNet()
    levels = 2 ** (_BITS - 1) - 1
    state = {}
    for name, values in network.state_dict().items():
        step = values.abs().max() / levels
        state[name] = (values / step).round() * step
    copy.load_state_dict(state)
    return copy.eval()


def _right(network: torch.nn.Module, pictures: torch.Tensor, truth: torch.Tensor) -> float:
    with torch.no_grad():
        # A few at a time: some networks take much memory for each.
        answers = torch.cat([network(part).argmax(1) for part in pictures.split(4)])
    return float((answers == truth).float().mean())
