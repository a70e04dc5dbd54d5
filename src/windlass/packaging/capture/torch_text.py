"""A Hugging Face text model as one PyTorch module: tokens in; logits, token vectors or a pooled embedding out.

Used by the Hugging Face capture source. Must never load a model itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch


class Text(torch.nn.Module):  # type: ignore[misc]
    """INT64 `[batch, sequence]` tokens to `logits`, `last_hidden_state` or `embedding` FP32 `[batch, width]`.

    `pooling` and `normalize` follow sentence-transformers (Reimers and Gurevych, 2019): several poolings are
    concatenated; the Euclidean norm is divided out.
    """

    def __init__(self, model: torch.nn.Module, pooling: Sequence[str], *, normalize: bool) -> None:
        super().__init__()
        self.model = model
        self._names = inputs(model)
        self._pooling = tuple(pooling)
        self._normalize = normalize

    def forward(self, *tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        named = dict(zip(self._names, tokens, strict=True))
        answer = self.model(**named)
        if "logits" in answer:
            return {"logits": answer.logits}
        hidden = answer.last_hidden_state
        if not self._pooling:
            return {"last_hidden_state": hidden}
        mask = named["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        pooled = torch.cat([pool(mode, hidden, mask) for mode in self._pooling], dim=-1)
        if self._normalize:
            pooled = torch.nn.functional.normalize(pooled, p=2.0, dim=-1)
        return {"embedding": pooled}


def pool(mode: str, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`[batch, tokens, width]` to `[batch, width]` where `mask` `[batch, tokens, 1]` is not zero."""
    if mode == "cls":
        return hidden[:, 0]
    if mode == "max":
        return hidden.masked_fill(mask == 0, -1e9).amax(dim=1)
    total = (hidden * mask).sum(dim=1)
    count = mask.sum(dim=1).clamp(min=1e-9)
    return total / (count.sqrt() if mode == "mean_sqrt_len" else count)


def inputs(model: torch.nn.Module) -> tuple[str, ...]:
    """The token tensors that the model reads. Token types are left out where there is only one."""
    parameters = inspect.signature(model.forward).parameters
    names = ["input_ids", "attention_mask"]
    if "token_type_ids" in parameters and getattr(model.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    return tuple(names)


def longest(model: torch.nn.Module, config: dict[str, Any]) -> int | None:
    """The most tokens that the positions allow. Some architectures leave the first positions to padding."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            reserved = module.padding_idx + 1 if module.padding_idx is not None else 0
            return int(module.num_embeddings - reserved)
    stated = config.get("max_position_embeddings")
    return int(stated) if stated else None
