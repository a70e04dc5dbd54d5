"""The one noun of the data plane: a `Call`, and `Infer`, everything that answers one.

A loaded model, the batcher, the router, a pipeline and a remote replica are all `Infer`s: `(call) -> None`.
Callbacks, not coroutines: no task and no future is made for a request. A call lives on its loop's thread; other
threads hand results back to the loop first. Must never know who asks (a protocol) or who answers (a model).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import msgspec

from windlass import errors
from windlass.types import contract, tensor

PROBE, INTERACTIVE, BATCH = 0, 1, 2


class InferRequest(msgspec.Struct, frozen=True):
    """What is asked: tensors that passed the contract.

    `rows` is the batch size, `key` groups requests whose tensors may be concatenated, `outputs` None means all.
    `context` is the protocol's own note for its encoder; nobody else reads it.
    """

    model: str
    inputs: tensor.Tensors
    rows: int = 1
    key: contract.ShapeKey = contract.NO_KEY
    outputs: tuple[str, ...] | None = None
    id: str = ""
    version: str = ""
    timeout_s: float | None = None
    priority: int = INTERACTIVE
    context: Any = None


class InferResponse(msgspec.Struct, frozen=True):
    """What is answered: the model's tensors, and which version gave them.

    `batch_rows` is how many rows shared the run; `queue_s` and `run_s` are seconds.
    """

    outputs: tensor.Tensors
    version: str = ""
    batch_rows: int = 1
    queue_s: float = 0.0
    run_s: float = 0.0


class Timer(Protocol):
    """What a loop gives back for a delayed callback."""

    def cancel(self) -> None: ...


OnReply: TypeAlias = Callable[["Call", InferResponse, bool], None]
OnFail: TypeAlias = Callable[["Call", errors.WindlassError], None]
Holder: TypeAlias = Callable[["Call"], None]


class Call(msgspec.Struct, eq=False, kw_only=True):
    """One request on its way: exactly one final outcome (ok or failed), delivered once.

    `deadline` is on the loop's monotonic clock, in seconds, or None. `arrived` is when its last byte came.
    `owner` is whoever made the call (a connection's exchange), for its callbacks. `timer` is cancelled at the end.
    `ready` is False while the receiver of a stream is full.
    """

    request: InferRequest
    on_reply: OnReply
    on_fail: OnFail
    arrived: float = 0.0
    deadline: float | None = None
    identity: str = "local"
    owner: Any = None
    priority: int = INTERACTIVE
    done: bool = False
    ready: bool = True
    timer: Timer | None = None
    _holder: Holder | None = None
    _children: list[Call] | None = None
    _drain: list[Callable[[], None]] | None = None

    def reply(self, response: InferResponse, final: bool = True) -> bool:
        """Deliver an answer; with `final=False`, one part of a stream. False if the call is over (its caller left)."""
        if self.done:
            return False
        if final:
            self.done = True
            if self.timer is not None:
                self.timer.cancel()
        self.on_reply(self, response, final)
        return True

    def fail(self, error: errors.WindlassError) -> bool:
        """Deliver the failure and tell whoever holds the call. False if the call is over."""
        if self.done:
            return False
        self.done = True
        if self.timer is not None:
            self.timer.cancel()
        for child in self._children or ():
            child.cancel("the parent call is over")
        if self._holder is not None:
            self._holder(self)
        self.on_fail(self, error)
        return True

    def cancel(self, reason: str) -> bool:
        """End the call because its caller no longer wants it. False if the call is over."""
        return self.fail(errors.Cancelled(reason))

    def held_by(self, holder: Holder | None) -> None:
        """Name who is told when the call ends early: the queue that holds it now. None: nobody."""
        self._holder = holder

    def derive(self, on_reply: OnReply, on_fail: OnFail, request: InferRequest | None = None) -> Call:
        """A child that inherits deadline, priority and identity, and is cancelled with its parent."""
        child = Call(
            request=self.request if request is None else request,
            on_reply=on_reply,
            on_fail=on_fail,
            arrived=self.arrived,
            deadline=self.deadline,
            identity=self.identity,
            owner=self,
            priority=self.priority,
        )
        if self._children is None:
            self._children = []
        self._children.append(child)
        if self.done:
            child.cancel("the parent call is over")
        return child

    def pause(self) -> None:
        """The receiver of a stream is full: `ready` is False until `resume`."""
        self.ready = False

    def resume(self) -> None:
        """The receiver of a stream has room again; whoever waited in `on_drain` is told once."""
        self.ready = True
        waiting, self._drain = self._drain, None
        for callback in waiting or ():
            callback()

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Call back once when `ready` turns true again; at once if it is."""
        if self.ready:
            callback()
            return
        if self._drain is None:
            self._drain = []
        self._drain.append(callback)


Infer: TypeAlias = Callable[[Call], None]
Layer: TypeAlias = Callable[[Infer], Infer]
