"""Captures a Hugging Face folder: a text encoder or classifier in safetensors, with its tokenizer.

Found through the catalogue, called by `packaging/package.py`. Where the folder asks for sentence-transformers' pooling
and normalization, they go into the graph. Must never run code from the folder, read a pickle or ask the network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from windlass import errors, plugins
from windlass.packaging import draft
from windlass.packaging.capture import base
from windlass.types import signature, tensor

_FIELD = "text"
_SEQUENCE = "sequence"
_SYNTHETIC_TEXTS = 32
_LONGEST_TEXT = 40
# Configurations that are not about length use numbers this large for "no limit".
_NO_LIMIT = 1_000_000


class Folder(msgspec.Struct, frozen=True):
    """What a folder's small files say: its task, the steps after the encoder, and how its texts are read."""

    path: Path
    config: dict[str, Any]
    classifies: bool
    pooling: tuple[str, ...]
    normalize: bool
    max_length: int | None


class HuggingFace:
    """The plugin."""

    name: ClassVar[str] = "huggingface"
    carries_code: ClassVar[bool] = False
    max_batch: ClassVar[int] = 128

    @classmethod
    def accepts(cls, source: Any) -> bool:
        """A folder whose `config.json` names a model type."""
        return isinstance(source, Path) and (source / "config.json").is_file()

    @classmethod
    def capture(cls, source: Any, options: base.Options) -> draft.Draft:
        """The draft; `CaptureFailed` for weights that are no safetensors, remote code, or a task not done here."""
        folder = read_folder(source)
        # PyTorch and transformers take seconds to import; whether a source is ours is asked more often than it is.
        from windlass.packaging.capture import torch_onnx, torch_original, torch_text

        model, notes = torch_original.ready(_load(folder))
        longest = torch_text.longest(model, folder.config)
        tokenizer = _tokenizer(folder, torch_text.inputs(model), longest)
        example, synthetic, edges = _example(tokenizer, options)
        module = torch_text.Text(model, folder.pooling, normalize=folder.normalize)
        subject = torch_onnx.Subject(
            module=module,
            example=example,
            source=str(folder.config.get("_name_or_path") or folder.path.name),
            dynamic={name: {1: _SEQUENCE} for name in example},
            dimensions={_SEQUENCE: signature.Dimension(1, longest, "attention_mask")},
            edges=edges,
            synthetic=synthetic,
            notes=notes,
        )
        labels = options.labels or (_labels(folder) if folder.classifies else ())
        transforms = (tokenizer, *options.transforms)
        if labels and not any(t.kind == "classify" for t in options.transforms):
            transforms = (*transforms, _classify(folder, labels))
        return torch_onnx.capture(subject, msgspec.structs.replace(options, labels=labels, transforms=transforms))


def read_folder(path: Path) -> Folder:
    """What the folder says of itself; `CaptureFailed` for what it asks for and cannot be had here."""
    config = _json(path / "config.json")
    if "auto_map" in config:
        raise errors.CaptureFailed(
            f"'{path.name}' needs code of its own (auto_map), which is not run.",
            hint="Load it yourself and package the nn.Module.",
        )
    if not list(path.glob("*.safetensors")):
        raise errors.CaptureFailed(
            f"'{path.name}' has no .safetensors file: weights in a pickle are not read.",
            hint="Load it where you trust it and write it with save_pretrained(folder), which makes safetensors.",
        )
    architecture = str((config.get("architectures") or [""])[0])
    classifies = architecture.endswith("ForSequenceClassification")
    encodes = architecture == "" or architecture.endswith(("Model", "ForMaskedLM", "ForPreTraining"))
    if not (classifies or encodes) or architecture.endswith("HeadModel") or config.get("is_encoder_decoder"):
        raise errors.CaptureFailed(
            f"'{path.name}' is a {architecture}: encoders and sequence classifiers are captured from a folder.",
            hint="Package the nn.Module with an example instead.",
        )
    pooling, normalize = ((), False) if classifies else _steps(path)
    limit = _json(path / "sentence_bert_config.json").get("max_seq_length")
    return Folder(path, config, classifies, pooling, normalize, int(limit) if limit else None)


def _steps(path: Path) -> tuple[tuple[str, ...], bool]:
    """The poolings and whether to normalize, by sentence-transformers' `modules.json`; none if it is not there."""
    pooling: tuple[str, ...] = ()
    normalize = False
    for step in _json(path / "modules.json", list):
        kind = str(step.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _poolings(_json(path / str(step["path"]) / "config.json"))
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise errors.CaptureFailed(
                f"modules.json asks for a '{kind}' step: Transformer, Pooling and Normalize are known.",
                hint="Package the nn.Module with an example instead.",
            )
    return pooling, normalize


def _poolings(config: dict[str, Any]) -> tuple[str, ...]:
    named = config.get("pooling_mode")
    if named is not None:
        modes = [named] if isinstance(named, str) else list(named)
    else:
        # The order in which sentence-transformers concatenates them.
        keys = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean", "mean_sqrt_len_tokens": "mean_sqrt_len"}
        keys |= {"weightedmean_tokens": "weightedmean", "lasttoken": "lasttoken"}
        modes = [mode for key, mode in keys.items() if config.get(f"pooling_mode_{key}")]
    unknown = [mode for mode in modes if mode not in ("cls", "max", "mean", "mean_sqrt_len_tokens", "mean_sqrt_len")]
    if unknown or not modes:
        raise errors.CaptureFailed(
            f"the pooling '{', '.join(map(str, unknown)) or 'none'}' is not known: cls, max, mean, mean_sqrt_len are.",
            hint="Package the nn.Module with an example instead.",
        )
    return tuple("mean_sqrt_len" if mode == "mean_sqrt_len_tokens" else mode for mode in modes)


def _load(folder: Folder) -> Any:
    """The model, from safetensors and by an architecture of transformers' own; `CaptureFailed` otherwise."""
    import transformers

    from windlass.packaging.capture import torch_original

    kind = transformers.AutoModelForSequenceClassification if folder.classifies else transformers.AutoModel
    with torch_original.quiet():
        try:
            return kind.from_pretrained(
                str(folder.path),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                # The plain form of attention exports to operators that onnxruntime fuses.
                attn_implementation="eager",
            ).eval()
        except Exception as e:  # noqa: BLE001 - transformers raises many kinds
            raise errors.CaptureFailed(
                f"transformers cannot load '{folder.path.name}': {torch_original.first_line(e)}.",
                hint="Is the folder what save_pretrained wrote, and the architecture one of transformers' own?",
            ) from None


def _tokenizer(folder: Folder, inputs: tuple[str, ...], longest: int | None) -> draft.TransformDraft:
    file = folder.path / "tokenizer.json"
    if not file.is_file():
        raise errors.CaptureFailed(
            f"'{folder.path.name}' has no tokenizer.json.",
            hint="Write it with AutoTokenizer.from_pretrained(folder).save_pretrained(folder).",
        )
    stated = _json(folder.path / "tokenizer_config.json").get("model_max_length")
    limits = [folder.max_length, int(stated) if stated and stated < _NO_LIMIT else None, longest]
    parameters = {
        "max_length": min((limit for limit in limits if limit), default=512),
        "field": _FIELD,
        "inputs": list(inputs),
        "pad_id": int(folder.config.get("pad_token_id") or 0),
    }
    return draft.TransformDraft("tokenizer", parameters, {"tokenizer.json": file.read_bytes()})


def _example(
    tokenizer: draft.TransformDraft, options: base.Options
) -> tuple[tensor.Tensors, bool, dict[str, tensor.Tensors]]:
    """Token tensors of the user's texts (or the tensors given), or of texts made from the vocabulary; edge cases."""
    transform = plugins.load("transforms", "tokenizer").load(tokenizer.parameters, tokenizer.files)
    given = dict(options.example or {})
    texts: Any = given.get(_FIELD, given.get(""))
    synthetic = not given
    if synthetic:
        texts = _made_texts(tokenizer.files["tokenizer.json"], np.random.default_rng(options.seed))
    if texts is None:
        wanted = list(tokenizer.parameters["inputs"])
        if sorted(given) != sorted(wanted):
            raise errors.InvalidInput(
                f"the example has {', '.join(given)}: the model takes {', '.join(wanted)}.",
                hint=f"Give texts as '{_FIELD}', or all of the model's tensors.",
            )
        example = {name: given[name] for name in wanted}
    else:
        example = transform.apply({_FIELD: _column(texts)})
    long = " ".join(["windlass"] * int(tokenizer.parameters["max_length"]))
    edges = {}
    for name, text in (("empty text", ""), ("longest text", long), ("unusual text", "\u00e9\u4e2d\U0001f642 \t\n~")):
        try:
            edges[name] = transform.apply({_FIELD: _column([text])})
        except errors.InvalidInput:
            # Some tokenizers give no token for an empty text; serving then refuses it just the same.
            continue
    return example, synthetic, edges


def _column(texts: Any) -> tensor.Array:
    values = [t.decode() if isinstance(t, bytes) else str(t) for t in np.asarray(texts, dtype=object).ravel()]
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _made_texts(file: bytes, rng: np.random.Generator) -> list[str]:
    """Texts of random words of the tokenizer's own vocabulary, of one word to forty."""
    vocabulary = json.loads(file).get("model", {}).get("vocab", {})
    tokens = (str(entry[0] if isinstance(entry, list) else entry) for entry in vocabulary)
    words = [word for word in (token.strip("#\u2581\u0120") for token in tokens) if word.isalpha()] or ["windlass"]
    lengths = rng.integers(1, _LONGEST_TEXT, _SYNTHETIC_TEXTS)
    return [" ".join(words[index] for index in rng.integers(0, len(words), length)) for length in lengths]


def _labels(folder: Folder) -> tuple[str, ...]:
    """The classes by id; none for a regression (one output)."""
    named = folder.config.get("id2label") or {}
    ordered = sorted(((int(index), str(label)) for index, label in named.items()))
    if folder.config.get("problem_type") == "regression" or len(ordered) < 2:
        # Two classes is what transformers takes when the configuration says nothing.
        return () if named or folder.config.get("problem_type") == "regression" else ("LABEL_0", "LABEL_1")
    return tuple(label for _, label in ordered)


def _classify(folder: Folder, labels: tuple[str, ...]) -> draft.TransformDraft:
    several = folder.config.get("problem_type") == "multi_label_classification"
    activation = "sigmoid" if several else "softmax"
    return draft.TransformDraft("classify", {"output": "logits", "activation": activation, "labels": list(labels)})


def _json(path: Path, kind: type[Any] = dict) -> Any:
    """A small JSON file of the folder; empty if there is none."""
    if not path.is_file():
        return kind()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as e:
        raise errors.CaptureFailed(f"'{path.name}' of the folder cannot be read: {e}.") from None
    if not isinstance(value, kind):
        raise errors.CaptureFailed(f"'{path.name}' of the folder is not what Hugging Face writes.")
    return value
