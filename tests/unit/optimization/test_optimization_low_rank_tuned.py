"""`low_rank_tuned`: which layers are factored, that the factors answer as the layer did, and what is left alone."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from windlass import errors  # noqa: E402
from windlass.optimization import form as forms  # noqa: E402
from windlass.optimization.techniques import low_rank_tuned  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = {"x": np.random.default_rng(2).normal(size=(16, 48, 9, 9)).astype(np.float32)}
VECTORS = {"x": np.random.default_rng(2).normal(size=(64, 96)).astype(np.float32)}


def thin_convolution(**more: Any) -> Any:
    """A convolution whose kernel is of low rank on both sides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        layer = torch.nn.Conv2d(48, 64, **{"kernel_size": 3, **more})
        core = torch.randn(5, 6, *layer.kernel_size)
        kernel = torch.einsum("op,pqhw,qi->oihw", torch.randn(64, 5), core, torch.randn(6, 48))
    with torch.no_grad():
        layer.weight.copy_(kernel / kernel.norm())
    return layer


CONVOLUTIONS = {
    "plain": {},
    "padded and strided": {"stride": 2, "padding": 1},
    "dilated": {"dilation": 2, "padding": "same"},
    "reflected": {"padding": 2, "padding_mode": "reflect"},
    "oblong, without bias": {"kernel_size": (1, 5), "bias": False},
    "one by one": {"kernel_size": 1},
    "one by one, strided": {"kernel_size": 1, "stride": 2},
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_factored_convolution_answers_as_it_did(kind: str) -> None:
    network = torch.nn.Sequential(thin_convolution(**CONVOLUTIONS[kind])).eval()
    before = sum(p.numel() for p in network.parameters())
    made, count = low_rank_tuned.factor(network, ("x",), IMAGES, 0.9999)
    assert count == 1
    assert isinstance(network[0], torch.nn.Conv2d)
    assert sum(p.numel() for p in made.parameters()) < before / 2
    given = torch.from_numpy(IMAGES["x"])
    with torch.no_grad():
        ours, theirs = made(given), network(given)
    assert ours.shape == theirs.shape
    assert float((ours - theirs).square().sum() / theirs.square().sum()) < 2e-3


def test_a_linear_layer_is_factored_by_what_it_answers() -> None:
    # The rows move along 4 directions only: a matrix of full rank is answered by one of rank 4.
    random = np.random.default_rng(0)
    rows = {"x": (random.normal(size=(200, 4)) @ random.normal(size=(4, 96))).astype(np.float32)}
    network = torch.nn.Sequential(torch.nn.Linear(96, 64)).eval()
    made, count = low_rank_tuned.factor(network, ("x",), rows, 0.999)
    assert count == 1
    assert made[0][0].out_features <= 4
    given = torch.from_numpy(rows["x"])
    with torch.no_grad():
        assert float((made(given) - network(given)).square().mean()) < 2e-3 * float(network(given).square().mean())


class Subclass(torch.nn.Linear):
    """Computes what nobody knows."""


def shared() -> Any:
    one, two = torch.nn.Linear(96, 96), torch.nn.Linear(96, 96)
    two.weight = one.weight
    return torch.nn.Sequential(one, two)


@pytest.mark.parametrize(
    "network",
    [
        torch.nn.Sequential(torch.nn.Linear(96, 31)),
        torch.nn.Sequential(Subclass(96, 96)),
        shared(),
        torch.nn.Linear(96, 96),
    ],
    ids=["small", "a subclass", "shared weights", "the network is the layer"],
)
def test_what_cannot_be_factored_stays_whole(network: Any) -> None:
    _, count = low_rank_tuned.factor(network.eval(), ("x",), VECTORS, 0.5)
    assert count == 0


def test_grouped_convolutions_and_full_ranks_stay_whole() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(48, 48, 3, groups=2), torch.nn.Conv2d(48, 48, 3)).eval()
    _, count = low_rank_tuned.factor(network, ("x",), IMAGES, 0.999)
    assert count == 0


def test_a_layer_that_is_used_twice_stays_one_layer() -> None:
    layer = torch.nn.Linear(96, 96)
    made, count = low_rank_tuned.factor(torch.nn.Sequential(layer, layer).eval(), ("x",), VECTORS, 0.5)
    assert count == 1
    assert made[0] is made[1]


@pytest.mark.usefixtures("not_exported")
def test_a_factored_network_trains_on(trainable: ModuleType, tmp_path: Path) -> None:
    plan = trainable.fit.Plan(("image",), epochs=2, rate=3e-3, threads=1)
    original = forms.Form({}, network=trainable.fit.fit(trainable.network(width=32), trainable.lesson(), plan).network)
    weights = {name: value.clone() for name, value in original.network.state_dict().items()}
    materials = trainable.materials(tmp_path)
    assert low_rank_tuned.LowRankTuned.refusal(original, materials) == ""
    made = low_rank_tuned.LowRankTuned.apply(original, {"energy": 0.95, "epochs": 1}, materials)
    assert size(made.network) < 0.8 * size(original.network)
    assert made.steps == (forms.Step("low_rank_tuned", {"energy": 0.95, "epochs": 1}),)
    assert "1 layer(s) factored" in made.notes[-1]
    assert all(torch.equal(value, original.network.state_dict()[name]) for name, value in weights.items())
    images, labels = trainable.rows(256, 9)
    with torch.no_grad():
        ours, theirs = (
            float((net(torch.from_numpy(images))["logits"].argmax(dim=1).numpy() == labels).mean())
            for net in (made.network, original.network)
        )
    assert ours > theirs - 0.15


def size(network: Any) -> int:
    return sum(p.numel() for p in network.parameters())


def test_what_is_missing_is_said(trainable: ModuleType, tmp_path: Path) -> None:
    materials = trainable.materials(tmp_path)
    technique = low_rank_tuned.LowRankTuned
    form = forms.Form({}, network=trainable.network(width=32))
    assert "no live network" in technique.refusal(forms.Form({}), materials)
    untaught = msgspec.structs.replace(materials, lesson=None)
    assert "no rows to train on" in technique.refusal(form, untaught)
    with pytest.raises(errors.UsageError, match="needs the network"):
        technique.apply(form, {}, untaught)
    small = forms.Form({}, network=trainable.network(width=8))
    assert technique.refusal(small, materials) == "no layer has a matrix of 32 x 32 or more."
    with pytest.raises(errors.Unsupported, match=r"no layer costs less as thinner ones that keep 0\.9"):
        technique.apply(small, {}, materials)
