"""A call: one final outcome whatever happens, and children that end with their parent."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from windlass import errors
from windlass.types import inference


class _Timer:
    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


class _Watched:
    """A call, and what its owner heard of it."""

    def __init__(self, parent: _Watched | None = None) -> None:
        self.parts = 0
        self.final: list[str] = []
        self.told = 0
        if parent is None:
            request = inference.InferRequest(model="m", inputs={}, priority=inference.BATCH)
            self.call = inference.Call(
                request=request, on_reply=self._reply, on_fail=self._fail, deadline=3.0, identity="k", priority=2
            )
        else:
            self.call = parent.call.derive(self._reply, self._fail)
        self.timer = _Timer()
        if not self.call.done:
            self.call.timer = self.timer

    def _reply(self, call: inference.Call, response: inference.InferResponse, final: bool) -> None:
        if final:
            self.final.append("ok")
        else:
            self.parts += 1

    def _fail(self, call: inference.Call, error: errors.WindlassError) -> None:
        self.final.append(error.code)

    def hear(self, call: inference.Call) -> None:
        self.told += 1


class CallMachine(RuleBasedStateMachine):
    """Any order of replies, failures, cancellations and children."""

    calls: Any = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[_Watched, _Watched | None]] = []

    @rule(target=calls)
    def make(self) -> _Watched:
        one = _Watched()
        self.all.append((one, None))
        return one

    @rule(target=calls, parent=calls)
    def derive(self, parent: _Watched) -> _Watched:
        child = _Watched(parent)
        assert child.call.done == parent.call.done
        assert (child.call.deadline, child.call.identity, child.call.priority) == (3.0, "k", 2)
        assert child.call.owner is parent.call
        self.all.append((child, parent))
        return child

    @rule(one=calls, final=st.booleans())
    def reply(self, one: _Watched, final: bool) -> None:
        before = (one.call.done, one.parts)
        assert one.call.reply(inference.InferResponse({}), final) is not before[0]
        assert one.parts == before[1] + (not final and not before[0])

    @rule(one=calls, held=st.booleans())
    def fail(self, one: _Watched, held: bool) -> None:
        over = one.call.done
        one.call.held_by(one.hear if held else None)
        assert one.call.fail(errors.InternalError("no")) is not over
        assert one.told <= 1

    @rule(one=calls)
    def cancel(self, one: _Watched) -> None:
        over = one.call.done
        assert one.call.cancel("left") is not over

    @invariant()
    def one_outcome(self) -> None:
        for one, parent in self.all:
            assert len(one.final) == one.call.done
            assert one.timer.cancelled == (one.call.done and one.call.timer is one.timer)
            if parent is not None and parent.final and parent.final != ["ok"]:
                assert one.call.done


CallMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCall = CallMachine.TestCase


def test_a_full_receiver_is_waited_for_once() -> None:
    call = _Watched().call
    heard: list[int] = []
    call.on_drain(lambda: heard.append(1))
    call.pause()
    call.on_drain(lambda: heard.append(2))
    call.on_drain(lambda: heard.append(3))
    assert heard == [1]
    call.resume()
    call.resume()
    assert heard == [1, 2, 3]
    assert call.ready
