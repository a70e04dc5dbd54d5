"""The rounding that training sees is the rounding of the integer form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from windlass.optimization import integers
from windlass.optimization.training import rounding

NUMBERS = st.integers(-5000, 5000).map(lambda number: number / 97)


def linear(weights: Any) -> torch.nn.Sequential:
    layer = torch.nn.Linear(weights.shape[1], weights.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(weights)))
    return torch.nn.Sequential(layer).eval()


def rounded(weights: Any, rows: Any) -> torch.nn.Sequential:
    network = linear(weights)
    rounding.add(network, ["0"])
    rounding.measure(network, on=True)
    network(torch.from_numpy(rows))
    rounding.measure(network, on=False)
    return network


@settings(max_examples=25, deadline=None)
@given(arrays.arrays(np.float32, (3, 5), elements=NUMBERS))
def test_weights_are_rounded_as_the_graph_holds_them(weights: Any) -> None:
    network = linear(weights)
    rounding.add(network, ["0"])
    made = integers.weights(weights, 0, "QInt8", reduced=False)
    expected = made.values * made.scales[:, None]
    # At a tie the two may differ by a whole step, when the quotient is not quite the same.
    step = np.abs(weights).max(axis=1, keepdims=True) / 127
    found = network[0].weight.detach().numpy()
    assert (
        np.abs(found - expected) <= np.where(np.isclose(np.abs(expected - weights), step / 2), step * 1.01, 1e-5)
    ).all()


@settings(max_examples=25, deadline=None)
@given(arrays.arrays(np.float32, (4, 3), elements=NUMBERS), arrays.arrays(np.float32, (4, 3), elements=NUMBERS))
def test_inputs_are_rounded_as_the_graph_rounds_them(seen: Any, asked: Any) -> None:
    network = rounded(np.eye(3, dtype=np.float32), seen)
    ranges = rounding.remove(network, ["0"])["0"]
    assert ranges == (min(0.0, float(seen.min())), max(0.0, float(seen.max())))
    rounding.add(network, ["0"])
    held = network[0].rounded_input
    held.low.fill_(ranges[0])
    held.high.fill_(ranges[1])
    point = integers.point(*ranges, "QUInt8")
    expected = (np.clip(np.rint(asked / point.scale) + point.zero, 0, 255) - point.zero) * point.scale
    found = held(torch.from_numpy(asked)).numpy()
    assert (np.abs(found - expected) <= point.scale * 1.001).all()
    inside = (asked > ranges[0]) & (asked < ranges[1])
    assert (np.abs(found - asked)[inside] <= point.scale * 0.501).all()


def test_the_gradient_passes_through_and_stops_where_the_range_ends() -> None:
    network = rounded(np.eye(3, dtype=np.float32), np.float32([[-1, 0, 1]]))
    asked = torch.tensor([[0.3, -0.2, 7.0]], requires_grad=True)
    network(asked).sum().backward()
    assert asked.grad is not None
    assert asked.grad[0, :2].tolist() == pytest.approx([1.0, 1.0], rel=1e-3)
    assert asked.grad[0, 2] == 0
    (original,) = network[0].parametrizations.weight.parameters()
    assert original.grad.any()


def test_ranges_follow_what_is_seen_until_they_are_held() -> None:
    network = rounded(np.eye(2, dtype=np.float32), np.float32([[-1, 1]]))
    wide = torch.tensor([[-9.0, 9.0]])
    network(wide)
    assert rounding.remove(network, ["0"])["0"] == (-1, 1)
    network = rounded(np.eye(2, dtype=np.float32), np.float32([[-1, 1]])).train()
    network(wide)
    rounding.hold(network, held=True)
    network(wide * 10)
    low, high = rounding.remove(network, ["0"])["0"]
    assert (low, high) == (pytest.approx(-1.4), pytest.approx(1.4))


def test_taking_it_away_leaves_the_network_as_it_was() -> None:
    weights = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    rows = torch.from_numpy(np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32))
    plain = linear(weights)
    before = plain(rows)
    network = rounded(weights, rows.numpy())
    network.load_state_dict({**network.state_dict(), "0.bias": plain[0].bias.detach()})
    assert not torch.equal(network(rows), before)
    rounding.remove(network, ["0"])
    assert torch.equal(network(rows), before)
    assert network.state_dict().keys() == plain.state_dict().keys()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_layers_are_known_again_after_normalization_was_folded_in(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = torch.nn.Sequential(
        *(torch.nn.Conv2d(2, 4, 3), torch.nn.Conv2d(4, 4, 3), torch.nn.Conv2d(4, 4, 3), torch.nn.Linear(8, 3))
    )
    factors = [rng.choice([-1, 1], len(layer.weight)) * rng.uniform(0.01, 50, len(layer.weight)) for layer in network]
    weights = {
        f"node{at}": (layer.weight.detach().numpy().T * factor.astype(np.float32)).T
        for at, (layer, factor) in enumerate(zip(network, factors, strict=True))
    }
    weights["stranger"] = rng.standard_normal((4, 4, 3, 3)).astype(np.float32)
    assert rounding.matched(network, weights) == {f"node{at}": str(at) for at in range(4)}


def test_layers_that_are_alike_or_used_twice() -> None:
    one = torch.nn.Linear(3, 3)
    network = torch.nn.Sequential(one, torch.nn.Linear(3, 3))
    network[1].load_state_dict(one.state_dict())
    weights = {name: one.weight.detach().numpy() for name in ("a", "b", "c")}
    assert rounding.matched(network, weights) == {"a": "0", "b": "1", "c": "0"}
    # A single number for each output points nowhere.
    assert rounding.matched(torch.nn.Sequential(torch.nn.Linear(1, 3)), {"a": np.ones((3, 1))}) == {}
