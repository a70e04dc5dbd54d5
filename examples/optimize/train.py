"""Trains the networks of the examples and writes their data: `python -m examples.optimize.train character_cnn`.

Writes `build/optimize/NAME-SEED.safetensors`, and beside it what `windlass optimize` takes: `characters-eval.npz`
(`--data`) and `characters-train.npz` (`--train`). Must never show a network the evaluation rows.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from examples.optimize import characters, networks, tabular
from torch import nn

EVALUATION_SEED = 1_000_003
_BATCH = 128
_ROWS = {"characters": (30_000, 12_000), "tabular": (60_000, 12_000)}
_EPOCHS = {"character_cnn": 6, "character_student": 12, "wide_mlp": 10}


def rows(kind: str, part: str, seed: int = 0) -> tuple[Any, Any]:
    """The inputs and classes of `characters` or `tabular`: `train` by its seed, or `eval`, the same for everybody."""
    counts = dict(zip(("train", "eval"), _ROWS[kind], strict=True))
    made = characters.cached if kind == "characters" else tabular.make
    return made(counts[part], seed=seed if part == "train" else EVALUATION_SEED)


def train(network: nn.Module, inputs: Any, labels: Any, *, epochs: int, seed: int, say: Any = print) -> nn.Module:
    """AdamW, one cycle of the rate (Smith and Topin, 2019), label smoothing; the network comes back for use."""
    torch.manual_seed(seed)
    given, wanted = torch.from_numpy(inputs), torch.from_numpy(labels)
    if given.ndim == 4:
        # As oneDNN likes images best: a fifth quicker on a CPU.
        given, network = (it.to(memory_format=torch.channels_last) for it in (given, network))
    steps = epochs * (len(given) // _BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.02)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    network.train()
    for epoch in range(epochs):
        started, total = time.monotonic(), 0.0
        order = torch.randperm(len(given))
        for start in range(0, len(given) - _BATCH + 1, _BATCH):
            batch = order[start : start + _BATCH]
            loss = loss_of(network(given[batch]), wanted[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            total += float(loss.detach())
        say(
            f"epoch {epoch + 1} of {epochs}: loss {total * _BATCH / len(given):.4f}, {time.monotonic() - started:.0f} s"
        )
    return network.eval()


def accuracy(network: nn.Module, inputs: Any, labels: Any) -> float:
    """The share of rows whose highest logit is their class."""
    with torch.inference_mode():
        found = [network(part).argmax(dim=1) for part in torch.from_numpy(inputs).split(500)]
    return float((torch.cat(found) == torch.from_numpy(labels)).double().mean())


def write_rows(kind: str, folder: Path = networks.KEPT) -> None:
    """The data files of a kind, named for what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "eval"):
        inputs, labels = rows(kind, part)
        np.savez(folder / f"{kind}-{part}.npz", input=inputs, label=labels)
    np.savez(folder / f"{kind}-example.npz", input=inputs[:16])


def write_weights(name: str, seed: int = 0, say: Any = print) -> nn.Module:
    """Train the named network and write its weights where `networks.trained` finds them."""
    torch.manual_seed(seed)
    network = getattr(networks, name)()
    train(network, *rows(kind_of(name), "train", seed), epochs=_EPOCHS[name], seed=seed, say=say)
    networks.write(network, name, seed)
    return network


def kind_of(name: str) -> str:
    """Which rows a network is trained on: `characters` or `tabular`."""
    return "tabular" if name == "wide_mlp" else "characters"


def main() -> None:
    """Train the named networks."""
    parser = argparse.ArgumentParser(description="Train the networks of the optimization examples.")
    parser.add_argument("names", nargs="+", choices=sorted(_EPOCHS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.names:
        kind = kind_of(name)
        write_rows(kind)
        network = write_weights(name, options.seed)
        print(f"{name}, seed {options.seed}: accuracy {accuracy(network, *rows(kind, 'eval')):.4f}")


if __name__ == "__main__":
    main()
