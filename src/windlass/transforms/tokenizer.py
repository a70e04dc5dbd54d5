"""Text to token ids by a Hugging Face `tokenizer.json`, padded to the longest text of the request.

Loaded through the catalogue. Only the `tokenizers` library reads the file, which holds data and no code.
Must never tokenize a text of unbounded length: what is cut off was still paid for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import tokenizers

from windlass import errors
from windlass.transforms import parameters as params
from windlass.types import fields, tensor

FILE = "tokenizer.json"
# Up to this many texts, one call each is as fast as a batch and starts no thread pool.
_FEW = 8


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`max_length` counts tokens, special ones included; `max_chars` bounds a text before it is tokenized."""

    max_length: Annotated[int, msgspec.Meta(ge=1, le=1_048_576)]
    field: Annotated[str, msgspec.Meta(min_length=1)] = "text"
    inputs: tuple[Literal["input_ids", "attention_mask", "token_type_ids"], ...] = ("input_ids", "attention_mask")
    datatype: Literal["INT64", "INT32"] = "INT64"
    pad_id: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_chars: Annotated[int, msgspec.Meta(ge=1)] = 65_536


class Tokenizer:
    """Takes the column `field` (object array of str), gives `[rows, longest]` integer tensors named by `inputs`.

    Texts of more than `max_length` tokens are cut at the end, as Hugging Face's `truncation=True` does. Shorter ones
    are padded on the right with `pad_id`, attention 0 and type 0.
    """

    name: ClassVar[str] = "tokenizer"
    stage: Literal["pre", "post"] = "pre"
    media = ("text/plain",)
    needs: tuple[str, ...] = ()
    # A sentence takes about 30 us, this much less than a millisecond.
    inline_bytes = 1024

    def __init__(self, parameters: Parameters, tokenizer: tokenizers.Tokenizer) -> None:
        self._field = parameters.field
        self._inputs = parameters.inputs
        self._dtype = tensor.dtype(parameters.datatype)
        self._pad_id = parameters.pad_id
        self._max_chars = parameters.max_chars
        self._tokenizer = tokenizer
        self._encode = tokenizer.encode
        meaning = f"Text; what goes beyond {parameters.max_length} tokens is cut off"
        self.reads = (fields.Field(parameters.field, "text", meaning=meaning),)

    @classmethod
    def load(cls, parameters: Mapping[str, Any], files: Mapping[str, bytes]) -> Tokenizer:
        """The transform; `InvalidInput` on wrong parameters, `CorruptPackage` if the file is not a tokenizer."""
        known = params.decode(Parameters, parameters, transform=cls.name)
        params.require_files(files, (FILE,), transform=cls.name)
        if "input_ids" not in known.inputs or len(set(known.inputs)) != len(known.inputs):
            raise errors.InvalidInput("transform 'tokenizer' must give 'input_ids', and each input once")
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(bytes(files[FILE]))
        except Exception as e:  # noqa: BLE001 -- the Rust library raises plain Exception
            raise errors.CorruptPackage(f"'{FILE}' is not a tokenizer: {e}") from None
        special = tokenizer.num_special_tokens_to_add(is_pair=False)
        if known.max_length <= special:
            raise errors.InvalidInput(
                f"transform 'tokenizer' has max_length {known.max_length}: "
                f"the tokenizer adds {special} special tokens, so no text would be left"
            )
        tokenizer.no_padding()
        tokenizer.enable_truncation(known.max_length)
        return cls(known, tokenizer)

    def apply(self, columns: fields.Columns) -> fields.Columns:
        """Columns with the text replaced by token tensors; `InvalidInput` names the row of a text that cannot be."""
        texts = columns.get(self._field)
        if texts is None:
            raise errors.InvalidInput(f"missing field '{self._field}'")
        rows: list[str] = texts.ravel().tolist()
        for row, text in enumerate(rows):
            if not isinstance(text, str):
                raise errors.InvalidInput(f"field '{self._field}', row {row}: a text is expected")
            if len(text) > self._max_chars:
                raise errors.InvalidInput(
                    f"field '{self._field}', row {row}: {len(text)} characters, at most {self._max_chars} are read"
                )
        encodings = self._encode_all(rows)
        answer = {name: column for name, column in columns.items() if name != self._field}
        answer.update(self._arrays(encodings))
        return answer

    def _encode_all(self, rows: list[str]) -> list[tokenizers.Encoding]:
        try:
            if len(rows) <= _FEW:
                return [self._encode(text) for text in rows]
            return self._tokenizer.encode_batch_fast(rows)
        except TypeError:
            # All of them are str; the library says so of those that have no UTF-8.
            raise errors.InvalidInput(f"field '{self._field}' has half of a surrogate pair: it is not text") from None

    def _arrays(self, encodings: list[tokenizers.Encoding]) -> tensor.Tensors:
        lengths = [len(encoding) for encoding in encodings]
        if 0 in lengths:
            raise errors.InvalidInput(f"field '{self._field}', row {lengths.index(0)}: the text has no tokens")
        longest = max(lengths, default=1)
        shape = (len(encodings), longest)
        ids = np.full(shape, self._pad_id, self._dtype)
        mask = np.zeros(shape, self._dtype)
        types = np.zeros(shape, self._dtype)
        for row, encoding in enumerate(encodings):
            length = lengths[row]
            ids[row, :length] = encoding.ids
            mask[row, :length] = 1
            types[row, :length] = encoding.type_ids
        every = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: every[name] for name in self._inputs}
