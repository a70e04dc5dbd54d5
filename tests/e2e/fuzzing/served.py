"""The server that is fuzzed: models of every kind, two arms with a shadow, keys with limits, two workers.

Loaded by `test_server_fuzz.py`. Must never be given anything that outlives the folder.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tokenizers

from windlass import references, sdk, settings
from windlass.packaging import archive, build, draft, verdicts
from windlass.packaging import package as packages
from windlass.packaging.capture import base
from windlass.runtimes import declared
from windlass.security import keys
from windlass.types import evidence, manifest, signature, spec, strict_json

Specs = tuple[signature.TensorSpec, ...]
ROWS = (signature.TensorSpec("x", "FP32", ("batch", 4)),)
MIXED = (
    signature.TensorSpec("b", "BYTES", ("batch", "words")),
    signature.TensorSpec("i", "INT8", ("batch", 3)),
    signature.TensorSpec("t", "BOOL", ("batch", 1)),
    signature.TensorSpec("h", "FP16", ("batch", 2)),
    signature.TensorSpec("u", "UINT64", ("batch", 1)),
)
IDS = tuple(signature.TensorSpec(name, "INT64", ("batch", "length")) for name in ("input_ids", "attention_mask"))
SORTS = "import numpy as np\nclass Model:\n    def predict(self, inputs):\n        return {'y': np.sort(inputs['x'])}\n"
COLUMNS = [{"name": "age"}, {"name": "kind", "kind": "category", "categories": ["a", "b"], "encoding": "ordinal"}]


def echo(
    folder: Path,
    name: str,
    inputs: Specs = ROWS,
    transforms: tuple[draft.TransformDraft, ...] = (),
    limits: manifest.Limits | None = None,
    **behaviour: Any,
) -> spec.Endpoint:
    """An endpoint that answers each output with the input of the same place."""
    names = ["y", *(f"y{number}" for number in range(1, len(inputs)))]
    outputs = tuple(msgspec.structs.replace(one, name=called) for one, called in zip(inputs, names, strict=True))
    shape = {one.name: tuple(size if isinstance(size, int) else 2 for size in one.shape) for one in inputs}
    rows = {
        one.name: np.full(shape[one.name], b"a", object)
        if one.datatype == "BYTES"
        else np.ones(shape[one.name], signature_dtype(one.datatype))
        for one in inputs
    }
    answered = {called: rows[one.name] for one, called in zip(inputs, names, strict=True)}
    drafted = draft.Draft(
        files={"echo.json": msgspec.json.encode({"inputs": inputs, "outputs": outputs, **behaviour})},
        signature=signature.Signature(inputs, outputs),
        trials=(draft.Trial("ones", rows, answered),),
        framework="echo",
        runtime="echo",
        max_batch=64,
        transforms=transforms,
    )
    package = build.build(drafted, name=name, limits=limits)
    path = folder / f"{name}.windlass"
    archive.write_zip(package, path)
    # A server's first load of ten packages would take as long as all the rest.
    verdicts.remember(evidence.Evidence(package.digest, "probation", "passed"), folder / "verdicts")
    return spec.Endpoint(name, (spec.Arm(package.digest, "1", str(path)),), threads=1)


def signature_dtype(datatype: str) -> Any:
    """numpy's name of a datatype."""
    return {"BOOL": bool, "FP16": "float16", "FP32": "float32"}.get(datatype, datatype.lower())


def words() -> bytes:
    """A tokenizer of five words."""
    known = {word: number for number, word in enumerate(("[UNK]", "the", "quick", "brown", "fox"))}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    text: str = made.to_str()
    return text.encode()


def models(folder: Path, limits: manifest.Limits | None = None) -> tuple[spec.Endpoint, ...]:
    """A model of every kind, but those that carry code."""
    table = draft.TransformDraft("tabular", {"input": "x", "columns": [{"name": "age"}, {"name": "height"}]})
    picture = draft.TransformDraft("image", {"input": "x", "width": 8, "height": 8, "max_pixels": 1_000_000})
    text = draft.TransformDraft("tokenizer", {"max_length": 16}, {"tokenizer.json": words()})
    pixels = (signature.TensorSpec("x", "FP32", ("batch", 3, 8, 8)),)
    arms = echo(folder, "arms", limits=limits)
    new = msgspec.structs.replace(echo(folder, "arms2").arms[0], version="2", id="new", share=30.0)
    old = msgspec.structs.replace(arms.arms[0], share=70.0)
    return (
        echo(folder, "numbers", limits=limits),
        echo(folder, "mixed", MIXED, limits=limits),
        echo(folder, "table", (signature.TensorSpec("x", "FP32", ("batch", 2)),), (table,), limits),
        echo(folder, "image", pixels, (picture,), limits),
        echo(folder, "text", IDS, (text,), limits),
        msgspec.structs.replace(
            arms,
            arms=(old, new),
            sticky="header:x-user",
            salt="s",
            pins=(spec.Pin("x-tenant", "gold", "new"),),
            override=True,
            shadow=spec.Shadow(msgspec.structs.replace(new, id="shadow"), 50.0),
        ),
    )


def coded(home: Path) -> spec.Endpoint:
    """A Python class that is served in a process of its own, signed by the home."""
    source = home / "code"
    source.mkdir()
    (source / "model.py").write_text(SORTS)
    outputs = (msgspec.structs.replace(ROWS[0], name="y"),)
    (source / declared.FILE).write_bytes(strict_json.canonical(declared.Tensors(ROWS, outputs, entry="model:Model")))
    options = base.Options(example={"x": np.ones((2, 4), np.float32)}, runtime="python")
    made = packages.package(source, name="code", options=options)
    known = settings.load({"home": home})
    sdk.register(known, made)
    return references.endpoints(known, ["code"])[0]


def callers() -> tuple[list[str], dict[str, Any]]:
    """Four keys, their texts and what a spec says of them: all is allowed; little; one model; reading."""
    limits: tuple[dict[str, Any], ...] = (
        {"scopes": ("model:read", "model:predict", "model:load")},
        {"rate": 5.0, "burst": 2, "concurrency": 2, "quota": 500},
        {"models": ("num*",)},
        {"scopes": ("model:read",)},
    )
    pepper = secrets.token_hex(16)
    texts, known = [], []
    for more in limits:
        identity, text = keys.generate()
        texts.append(text)
        known.append(spec.Key(identity, keys.hmac_of(text, bytes.fromhex(pepper)), **more))
    return texts, {"keys": tuple(known), "key_pepper": pepper}
