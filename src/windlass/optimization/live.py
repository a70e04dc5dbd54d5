"""The live network that a person names as the one behind a version: whether it is, and what tells it from others.

Called by `study` before anything is measured or trained. Must never change a network.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from windlass import errors, plugins
from windlass.packaging import golden, session
from windlass.types import tensor_codec

# PyTorch may sum in another order here than where the version was packaged; other weights are off by far more.
_ROOM = 10.0
_HINT = "Name the function that makes the very network, with its trained weights, that the version was packaged from."


def require(network: Any, parent: session.Session) -> None:
    """`UsageError` unless the network answers the golden inputs as the version does, within its tolerance."""
    stored = parent.package.manifest.golden
    inputs = tensor_codec.unpack(parent.package.read(stored.inputs))
    expected = tensor_codec.unpack(parent.package.read(stored.outputs))
    shape = parent.contract.signature
    outputs = tuple(spec.name for spec in shape.outputs)
    peer = plugins.load("peers", "torch")
    try:
        answers = peer.named(network, tuple(spec.name for spec in shape.inputs), outputs)(inputs)
    except errors.WindlassError as e:
        raise errors.UsageError(
            f"the network given does not take what the version takes: {e.message}", hint=_HINT
        ) from None
    except ValueError:
        raise errors.UsageError(
            f"the network given does not answer with {', '.join(outputs)} and nothing else.", hint=_HINT
        ) from None
    worst = golden.worst(answers, expected, stored.rtol, stored.atol)
    if not worst.excess <= _ROOM:
        raise errors.UsageError(
            f"the network given is not the one behind the version: on its golden inputs '{worst.output}' "
            f"{worst.detail}.",
            hint=_HINT,
        )


def told(network: Any, *, weights: bool = True) -> str:
    """`sha256:<hex>` over its structure, the source files of its modules and (by default) all its values."""
    found = hashlib.sha256(repr(network).encode())
    for name, value in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        if weights:
            found.update(value.detach().cpu().double().numpy().tobytes())
    for path in sorted(set(_sources(network))):
        found.update(path.read_bytes())
    return f"sha256:{found.hexdigest()}"


def _sources(network: Any) -> Iterator[Path]:
    """The files that define its modules; PyTorch's own are told by their version."""
    for kind in {type(module) for module in network.modules()}:
        if kind.__module__.partition(".")[0] != "torch":
            # A class that was typed into a session has no file.
            with contextlib.suppress(TypeError, OSError):
                yield Path(inspect.getfile(kind))
