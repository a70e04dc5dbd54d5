"""What protocols may see of the server: its models, and the few things a client may ask of them.

Implemented by serving, used by every protocol; the seam between the two. Must never know how a model is held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from windlass import errors
from windlass.types import contract, fields, inference, manifest, signature

State = Literal["READY", "LOADING", "UNAVAILABLE"]
# Decodes the body of a request once more, for another arm's view: its request, or the error that its contract gives.
Again: TypeAlias = Callable[["ModelView"], inference.InferRequest]


class Lease:
    """Counts who still uses a loaded model, so that it is unloaded when its last request is answered."""

    __slots__ = ("_on_free", "held")

    def __init__(self) -> None:
        self.held = 0
        self._on_free: Callable[[], None] | None = None

    def hold(self) -> None:
        """One more request is under way."""
        self.held += 1

    def release(self) -> None:
        """One request was answered."""
        self.held -= 1
        if self.held == 0 and self._on_free is not None:
            callback, self._on_free = self._on_free, None
            callback()

    def retire(self, on_free: Callable[[], None]) -> None:
        """Call back once nobody holds it; at once if nobody does."""
        if self.held == 0:
            on_free()
        else:
            self._on_free = on_free


class ModelView(msgspec.Struct, frozen=True):
    """One endpoint as its callers see it; an immutable snapshot, replaced at each swap.

    `name` is the endpoint, `version` the one that answers unless another is asked for. Whoever keeps a view while a
    request is under way holds its lease. `refuses(caller)` is the error for a request that would find no room now; None
    where that cannot be.
    `arm` and `generation` (of the weights) are counted with the outcomes of an endpoint that has several arms; its
    view has `route(headers, caller, request_id)`, which draws the view of the arm that answers and notes the draw.
    `mirror(request, response, again)` hands an answered request to a shadow.
    Ok answers that took longer than `slow_s` seconds are slow; `went_wrong(headers, caller)` is told of requests that
    ended badly or slowly, where that is remembered by their sticky key.
    """

    name: str
    version: str
    versions: tuple[str, ...]
    platform: str
    signature: signature.Signature
    contract: contract.Contract
    limits: manifest.Limits
    transformer: fields.Transformer
    labels: tuple[str, ...]
    infer: inference.Infer
    lease: Lease
    refuses: Callable[[str], errors.WindlassError | None] | None = None
    arm: str = ""
    generation: int = 0
    route: Callable[[Mapping[bytes, bytes], str, str], ModelView] | None = None
    mirror: Callable[[inference.InferRequest, inference.InferResponse, Again], None] | None = None
    slow_s: float = math.inf
    went_wrong: Callable[[Mapping[bytes, bytes], str], None] | None = None


class ModelState(msgspec.Struct, frozen=True):
    """A line of the repository index."""

    name: str
    version: str
    state: State
    reason: str = ""


class ModelStatistics(msgspec.Struct, frozen=True):
    """Cumulative counts and nanoseconds of one version since it was loaded."""

    name: str
    version: str
    inference_count: int
    execution_count: int
    success_count: int
    success_ns: int
    fail_count: int
    fail_ns: int
    queue_ns: int
    compute_infer_ns: int
    batches: dict[int, tuple[int, int]]
    last_inference_ms: int = 0


class ModelDirectory(Protocol):
    """What a server offers to its protocols. All methods run on the loop's thread and return at once."""

    def find(self, name: str, version: str = "") -> ModelView:
        """The endpoint; `NotFound` (naming the nearest), or `Unavailable` while it is loading."""
        ...

    def states(self) -> tuple[ModelState, ...]:
        """Every model this server has or may load, sorted by name."""
        ...

    def live(self) -> bool: ...

    def ready(self) -> bool:
        """True when every endpoint can answer and the server makes progress."""
        ...

    def statistics(self, name: str = "", version: str = "") -> tuple[ModelStatistics, ...]: ...

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        """The batching, placement and limits in force."""
        ...

    def load(self, name: str, done: Callable[[errors.WindlassError | None], None]) -> None:
        """Load a repository model by name; `done` is called with None or the reason."""
        ...

    def unload(self, name: str, done: Callable[[errors.WindlassError | None], None]) -> None: ...
