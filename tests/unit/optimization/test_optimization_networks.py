"""A live network made ready: what batch normalization learns anew."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from windlass.optimization.training import networks

ROWS = {"x": np.random.default_rng(0).normal(2.0, 3.0, (600, 4)).astype(np.float32)}


def test_batch_normalization_learns_what_passes_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).eval()
    norm, weight = network[1], network[0].weight.detach().clone()
    networks.settle(network, ("x",), ROWS)
    passed = network[0](torch.from_numpy(ROWS["x"])).detach()
    torch.testing.assert_close(norm.running_mean, passed.mean(0), rtol=0.05, atol=0.05)
    torch.testing.assert_close(norm.running_var, passed.var(0), rtol=0.1, atol=0.05)
    assert torch.equal(network[0].weight, weight)
    assert not norm.training
    assert norm.momentum == 0.1


def test_one_row_says_nothing_of_a_variance() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).eval()
    before = network[1].running_mean.clone()
    networks.settle(network, ("x",), {"x": ROWS["x"][:1]})
    assert torch.equal(network[1].running_mean, before)


def test_a_last_batch_of_one_row_is_left_out() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).eval()
    networks.settle(network, ("x",), {"x": ROWS["x"][: networks.ROWS + 1]})
    assert torch.isfinite(network[1].running_var).all()
