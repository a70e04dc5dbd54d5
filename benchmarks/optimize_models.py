"""The shapes of models that `optimize.py` tries to make quicker, from a tiny network to a sentence encoder.

Weights are random from a fixed seed where only speed is asked; the sentence encoder has its real ones, the character
network and the trees are trained in place. Must never be chosen so that a technique looks good.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import numpy as np
import optimize_lessons as lessons
from examples.optimize import train
from models import SEED, Arrays

DOCS = Path(__file__).resolve().parent.parent / "docs"


@dataclass(frozen=True)
class Shape:
    """A model, how it is made, and rows that it could be asked.

    `size` is how many rows a study is given, `seconds` how long it has, `batch` the rows of a larger run. `labels` of
    trained networks are the truth; `cosine` is what other answers must keep. `compiled` names torch's peers
    that are tried beside.
    """

    name: str
    title: str
    build: Callable[[], Any]
    rows: Callable[[int], Arrays]
    size: int = 96
    max_batch: int = 32
    seconds: float = 25.0
    batch: int = 8
    labels: Callable[[int], np.ndarray] | None = None
    cosine: float = 0.98
    compiled: tuple[str, ...] = ()
    quick: bool = False
    trees: bool = False


def _images(*shape: int) -> Callable[[int], Arrays]:
    return lambda count: {"x": np.random.default_rng(SEED).standard_normal((count, *shape), dtype=np.float32)}


def _tokens(length: int) -> Callable[[int], Arrays]:
    """Random ones, of random lengths."""

    def rows(count: int) -> Arrays:
        random = np.random.default_rng(SEED)
        ids = random.integers(1000, 29000, (count, length), dtype=np.int64)
        mask = (np.arange(length) < random.integers(length // 4, length + 1, (count, 1))).astype(np.int64)
        return {"input_ids": ids * mask, "attention_mask": mask}

    return rows


def _sentences(length: int) -> Callable[[int], Arrays]:
    """Paragraphs of this project's documentation, as the encoder's own tokenizer cuts them."""

    def rows(count: int) -> Arrays:
        import transformers

        texts = [text for page in sorted(DOCS.rglob("*.md")) for text in page.read_text().split("\n\n")]
        texts = [" ".join(text.split()) for text in texts if len(text) > 200 and text[0].isalpha()]
        tokenizer = transformers.AutoTokenizer.from_pretrained(models.sentence_folder())
        chosen = np.random.default_rng(SEED).permutation(len(texts))[:count]
        found = tokenizer(
            [texts[at] for at in chosen], padding="max_length", truncation=True, max_length=length, return_tensors="np"
        )
        return {name: found[name].astype(np.int64) for name in ("input_ids", "attention_mask")}

    return rows


def _resnet18() -> Any:
    """The ResNet-18 of He et al. 2015."""
    from torch import nn

    def convolution(width_in: int, width_out: int, kernel: int, stride: int = 1) -> list[Any]:
        return [
            nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(width_out),
        ]

    class Block(nn.Module):
        def __init__(self, width_in: int, width: int, stride: int) -> None:
            super().__init__()
            first, second = convolution(width_in, width, 3, stride), convolution(width, width, 3)
            self.body = nn.Sequential(*first, nn.ReLU(), *second)
            same = width_in == width and stride == 1
            self.skip = nn.Identity() if same else nn.Sequential(*convolution(width_in, width, 1, stride))

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(self.body(x) + self.skip(x))

    blocks: list[Any] = []
    for width_in, width, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        blocks += [Block(width_in, width, stride), Block(width, width, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks, *head)


def _mobilenet() -> Any:
    """The MobileNetV1 of Howard et al. 2017: depthwise convolutions, which int8 helps least."""
    from torch import nn

    def step(width_in: int, width: int, stride: int) -> list[Any]:
        depthwise = nn.Conv2d(width_in, width_in, 3, stride, 1, groups=width_in, bias=False)
        pointwise = nn.Conv2d(width_in, width, 1, bias=False)
        return [
            *(depthwise, nn.BatchNorm2d(width_in), nn.ReLU6()),
            *(pointwise, nn.BatchNorm2d(width), nn.ReLU6()),
        ]

    plan = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2))
    plan += ((512, 512, 1),) * 5 + ((512, 1024, 2), (1024, 1024, 1))
    layers: list[Any] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    for one in plan:
        layers += step(*one)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000))


def _lstm() -> Any:
    """Two layers of LSTM over 64 steps."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = nn.LSTM(64, 256, num_layers=2, batch_first=True)
            self.head = nn.Linear(256, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.steps(x)[0][:, -1])

    return Network()


def _bert() -> Any:
    """BERT-base of Devlin et al. 2018, with the answer of a classifier of two classes."""
    import torch
    import transformers

    config = transformers.BertConfig(num_labels=2, attn_implementation="eager")
    bert = transformers.BertForSequenceClassification(config)

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.bert(input_ids=input_ids, attention_mask=attention_mask).logits

    return Classifier()


def _vit() -> Any:
    """ViT-S/16 of Touvron et al. 2021."""
    import torch
    import transformers

    config = transformers.ViTConfig(
        hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000, attn_implementation="eager"
    )
    vit = transformers.ViTForImageClassification(config)

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = vit

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.vit(pixel_values=x).logits

    return Classifier()


def _unet() -> Any:
    """The U-Net of Ronneberger et al. 2015 with three levels, from 32 channels."""
    import torch
    from torch import nn

    def double(width_in: int, width: int) -> Any:
        layers: list[Any] = []
        for one in (width_in, width):
            layers += [nn.Conv2d(one, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        return nn.Sequential(*layers)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (32, 64, 128, 256)
            self.down = nn.ModuleList(double(a, b) for a, b in itertools.pairwise((3, *widths)))
            self.wider = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, 2) for width in widths[:-1])
            self.up = nn.ModuleList(double(2 * width, width) for width in widths[:-1])
            self.head = nn.Conv2d(widths[0], 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = []
            for at, level in enumerate(self.down):
                x = level(x if at == 0 else nn.functional.max_pool2d(x, 2))
                kept.append(x)
            for at in reversed(range(len(self.up))):
                x = self.up[at](torch.cat((self.wider[at](x), kept[at]), 1))
            return self.head(x)

    return Network()


def _table(part: slice) -> tuple[np.ndarray, np.ndarray]:
    import sklearn.datasets

    inputs, labels = sklearn.datasets.make_classification(8000, 40, n_informative=20, random_state=SEED)
    return inputs[part].astype(np.float32), labels[part].astype(np.int64)


def _trees() -> Any:
    """Gradient-boosted trees (XGBoost), trained on scikit-learn's generator of wide tables."""
    import xgboost

    return xgboost.XGBClassifier(n_estimators=200, max_depth=6, n_jobs=1, random_state=SEED).fit(*_table(slice(4000)))


def _examples(kind: str) -> tuple[Callable[[int], Arrays], Callable[[int], np.ndarray]]:
    """Rows and labels of `characters` or `tabular` that no training has seen."""
    return (
        lambda count: {"input": train.rows(kind, "eval")[0][:count]},
        lambda count: train.rows(kind, "eval")[1][:count],
    )


def seeded(shape: Shape) -> Any:
    """The model, its random weights from the one seed; statistics of normalisation as after some training."""
    if shape.labels is not None:
        return shape.build()
    import torch

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    module = shape.build()
    _settle(module, {name: torch.from_numpy(rows) for name, rows in shape.rows(8).items()})
    return module.eval()


def _settle(module: Any, rows: dict[str, Any]) -> None:
    """Batch normalisation of random weights learns the scale of what passes, so that activations stay in bounds."""
    import torch

    if any(isinstance(layer, torch.nn.BatchNorm2d) for layer in module.modules()):
        module.train()
        with torch.no_grad():
            for _ in range(12):
                module(*rows.values())


_COMPILE, _TORCHAO = "torch.compile", "torchao int8 + torch.compile"
_IMAGE = _images(3, 224, 224)
_CHARACTERS, _CHARACTER_LABELS = _examples("characters")
_TABLE, _TABLE_LABELS = _examples("tabular")
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny_mlp", "MLP 30-64-32-2", models.MODELS["mlp"].build, _images(30), 512, 128, batch=32, quick=True),
        Shape(
            "wide_mlp",
            "MLP 512-2048-2048-512-10 (6.3 M)",
            models.MODELS["wide"].build,
            _images(512),
            size=512,
            batch=32,
            compiled=(_COMPILE, _TORCHAO),
            quick=True,
        ),
        Shape(
            "tabular",
            "MLP 64-1024-1024-192-8, trained",
            lambda: lessons.trained("wide_mlp"),
            _TABLE,
            size=6000,
            labels=_TABLE_LABELS,
            quick=True,
        ),
        Shape(
            "characters",
            "CNN of 32x32 characters, trained",
            lambda: lessons.trained("character_cnn"),
            _CHARACTERS,
            size=6000,
            labels=_CHARACTER_LABELS,
        ),
        Shape("resnet18", "ResNet-18 shape", _resnet18, _IMAGE, seconds=45.0, batch=4),
        Shape("resnet50", "ResNet-50 shape", models.MODELS["resnet"].build, _IMAGE, seconds=110.0, batch=4),
        Shape("mobilenet", "MobileNetV1 shape (depthwise)", _mobilenet, _IMAGE, seconds=30.0),
        Shape("unet", "U-Net shape, 128x128", _unet, _images(3, 128, 128), 80, 8, seconds=30.0, batch=4),
        Shape("lstm", "LSTM 2 x 256, 64 steps", _lstm, _images(64, 64), 256),
        Shape("vit", "ViT-S/16 shape", _vit, _IMAGE, 80, seconds=40.0, batch=4),
        Shape(
            "bert",
            "BERT-base shape, 128 tokens",
            _bert,
            _tokens(128),
            size=80,
            max_batch=16,
            seconds=160.0,
            batch=4,
        ),
        Shape(
            "minilm",
            "MiniLM-L6, real weights, 128 tokens",
            models.MODELS["minilm"].build,
            _sentences(128),
            size=128,
            seconds=60.0,
            cosine=0.985,
            compiled=(_COMPILE, _TORCHAO),
        ),
        Shape(
            "trees",
            "XGBoost, 200 trees of depth 6",
            _trees,
            lambda count: {"x": _table(slice(4000, 4000 + count))[0]},
            size=4000,
            max_batch=128,
            labels=lambda count: _table(slice(4000, 4000 + count))[1],
            quick=True,
            trees=True,
        ),
    )
}
