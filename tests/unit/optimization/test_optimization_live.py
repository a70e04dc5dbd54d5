"""Whether a live network is the one behind a version, and what tells networks from others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from windlass import errors
from windlass.optimization import live
from windlass.packaging import build, draft, session
from windlass.packaging.capture import base as capture
from windlass.packaging.capture import torch_module


def network(seed: int = 0, taken: int = 4) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(taken, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def opened() -> Any:
    """The version of the network with seed 0."""
    rows = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    drafted: draft.Draft = torch_module.TorchModule.capture(network(), capture.Options(example={"": rows}))
    found = session.open(build.build(drafted, name="net"))
    yield found
    found.close()


def test_the_network_behind_a_version_is_told_from_others(opened: session.Session) -> None:
    live.require(network(), opened)
    with pytest.raises(errors.UsageError, match="not the one behind the version") as refused:
        live.require(network(seed=1), opened)
    assert "trained weights" in refused.value.hint
    with pytest.raises(errors.UsageError, match="does not take what the version takes"):
        live.require(network(taken=5), opened)


def test_a_network_with_more_answers_is_another(opened: session.Session) -> None:
    class Twice(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x[:, :3], x

    with pytest.raises(errors.UsageError, match="does not answer with output and nothing else"):
        live.require(Twice(), opened)


def test_a_networks_name_changes_with_its_values_and_its_structure() -> None:
    assert live.told(network()) == live.told(network())
    assert live.told(network()) != live.told(network(seed=1))
    assert live.told(network(), weights=False) == live.told(network(seed=1), weights=False)
    assert live.told(network(), weights=False) != live.told(network(taken=5), weights=False)
