"""Pruning: masks that hold, channels that are taken out only where that is right."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization.techniques import prune_structural, prune_unstructured
from windlass.optimization.training import networks

ROWS = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
IDS = np.random.default_rng(0).integers(0, 30, (4, 6))


def seeded(make: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


class Depthwise(torch.nn.Module):
    """A residual sum, a depthwise convolution, a concatenation and a flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 32, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(32)
        self.second = torch.nn.Conv2d(32, 32, 3, padding=1)
        self.depth = torch.nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.aside = torch.nn.Conv2d(1, 32, 3, padding=1)
        self.mix = torch.nn.Conv2d(64, 32, 1)
        self.flat = torch.nn.Linear(32 * 64, 32)
        self.head = torch.nn.Linear(32, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(image)))
        x = x + torch.nn.functional.silu(self.second(x))
        x = torch.cat([self.depth(x), self.aside(image)], 1)
        return self.head(torch.relu(self.flat(self.mix(x).flatten(1))))


class Attention(torch.nn.Module):
    """One block of a transformer: heads of a fixed size, normalization over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(30, 32)
        self.query, self.key, self.value, self.out = (torch.nn.Linear(32, 32) for _ in range(4))
        self.norm = torch.nn.LayerNorm(32)
        self.up, self.down = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)
        self.head = torch.nn.Linear(32, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        q, k, v = (layer(x).view(*x.shape[:2], 4, 8).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = self.norm(x + self.out(mixed))
        return self.head((x + self.down(torch.nn.functional.gelu(self.up(x)))).mean(1))


def zeroed(network: torch.nn.Module, pruned: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in pruned.parameters())


def test_channels_go_together_through_sums_concatenations_and_flattening() -> None:
    network = seeded(Depthwise)
    before = [p.clone() for p in network.parameters()]
    made = prune_structural.prune(network, ("image",), {"image": ROWS}, 0.5)
    small = made.network
    assert (small.first.out_channels, small.second.out_channels, small.depth.groups) == (16, 16, 16)
    assert (small.flat.in_features, small.flat.out_features, small.head.out_features) == (16 * 64, 16, 5)
    assert made.groups == 4
    assert made.before - made.after == zeroed(network, small) > 0
    assert [item.node for item in made.left] == ["head"]
    assert made.left[0].why == "its channels are the network's answer."
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert network.first.out_channels == 32
    answer = networks.answers(small, ("image",), {"image": ROWS})
    assert answer.shape == (4, 5)


def test_what_is_cut_is_the_weakest_and_changes_nothing_that_was_zero() -> None:
    network = seeded(Depthwise)
    weak = torch.arange(0, 32, 2)
    with torch.no_grad():
        for layer in network.children():
            for tensor in (layer.weight, layer.bias) if layer is not network.head else ():
                tensor[weak] = 0.0
    made = prune_structural.prune(network, ("image",), {"image": ROWS}, 0.5)
    expected = networks.answers(network, ("image",), {"image": ROWS})
    found = networks.answers(made.network, ("image",), {"image": ROWS})
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_heads_and_normalized_channels_are_left() -> None:
    made = prune_structural.prune(seeded(Attention), ("ids",), {"ids": IDS}, 0.5)
    assert (made.network.up.out_features, made.network.down.in_features) == (32, 32)
    assert made.network.query.out_features == made.network.out.out_features == 32
    assert made.groups == 1
    assert {item.node for item in made.left} >= {"head", "value"}
    assert {item.operator for item in made.left} == {"Linear"}
    assert any("its forward pass may name their number" in item.why for item in made.left)


@pytest.mark.parametrize("over", [torch.nn.LayerNorm(32), torch.nn.Softmax(dim=-1), torch.nn.GroupNorm(2, 32)])
def test_what_computes_over_all_channels_keeps_them(over: torch.nn.Module) -> None:
    def make() -> torch.nn.Module:
        linear, relu = torch.nn.Linear, torch.nn.ReLU
        return torch.nn.Sequential(linear(8, 32), over, linear(32, 32), relu(), linear(32, 3))

    made = prune_structural.prune(seeded(make), ("input",), {"input": ROWS[:, 0, 0]}, 0.5)
    assert [layer.out_features for layer in made.network if isinstance(layer, torch.nn.Linear)] == [32, 16, 3]
    # Without these channels it runs, and computes something else.
    assert {item.node: "with zeros in them" in item.why for item in made.left} == {"0": True, "4": False}


def test_a_network_with_nothing_to_take_out_is_refused() -> None:
    with pytest.raises(errors.Unsupported, match=r"no channels can be taken out .* 0: its channels are the network's"):
        prune_structural.prune(torch.nn.Sequential(torch.nn.Linear(8, 32)), ("input",), {"input": ROWS[:, 0, 0]}, 0.5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 2048), st.floats(0.01, 0.99))
def test_whole_blocks_stay(channels: int, ratio: float) -> None:
    out = prune_structural._surplus(channels, ratio)
    left = channels - out
    assert 0 <= out < channels
    block = next((size for size in (16, 8, 4) if channels % size == 0 and channels >= 2 * size), 1)
    assert left % block == 0
    assert left == block or abs(left - channels * (1 - ratio)) <= block / 2 + 1e-6


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([0.5, 0.7, 0.9]), st.integers(1, 40))
def test_more_and_more_weights_are_zero_and_none_comes_back(sparsity: float, steps: int) -> None:
    rng = np.random.default_rng(steps)
    network = torch.nn.Sequential(torch.nn.Linear(20, 20), torch.nn.Linear(20, 2))
    cuts = prune_unstructured._Cuts(sparsity)
    cuts(network, 0.0)
    out = torch.zeros(20, 20, dtype=torch.bool)
    for step in range(1, steps + 1):
        with torch.no_grad():
            network[0].weight += torch.from_numpy(rng.standard_normal((20, 20)).astype(np.float32))
        if step == steps // 2:
            # A run that goes on knows the masks by the weights alone.
            network[0].weight.data[out] = 0.0
            cuts = prune_unstructured._Cuts(sparsity)
            cuts(network, (step - 1) / steps)
        cuts(network, step / steps)
        assert not (network[0].weight[out] != 0).any()
        out = network[0].weight == 0
    assert int(out.sum()) == round(sparsity * 400)
    assert not (network[1].weight == 0).any()


def test_embeddings_biases_and_what_is_small_are_not_pruned() -> None:
    assert list(prune_unstructured.prunable(Attention())) == [
        f"{name}.weight" for name in ("query", "key", "value", "out", "up", "down")
    ]
    assert list(prune_unstructured.prunable(torch.nn.LSTM(16, 16))) == ["weight_ih_l0", "weight_hh_l0"]


def test_refusals(trainable: ModuleType, tmp_path: Path) -> None:
    materials = trainable.materials(tmp_path)
    plain = forms.Form({}, network=torch.nn.Sequential(torch.nn.Linear(2, 2)))
    for technique in (prune_structural.StructuralPruning, prune_unstructured.UnstructuredPruning):
        assert "--model" in technique.refusal(forms.Form({}), materials)
        assert "--train" in technique.refusal(plain, trainable.materials(tmp_path, lesson=None))
        assert technique.refusal(plain, materials)
        assert technique.refusal(forms.Form({}, network=trainable.network()), materials) == ""
