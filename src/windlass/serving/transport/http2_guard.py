"""How much an HTTP/2 peer may ask for that costs it nothing: control frames, and streams that it gives up.

Held by each connection. Must never count against a peer what the answers that it got explain.
"""

from __future__ import annotations

from windlass.serving.transport import http2_frames as frames
from windlass.types import spec

# A second's worth of control frames, this many times over, may come at once.
_BURST = 10
# Control frames that one request explains.
_PER_REQUEST = 4


class Allowance:
    """What refills at `rate` a second up to `most`."""

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, rate: float, most: float, now: float) -> None:
        self._rate, self._most, self._left, self._at = rate, most, most, now

    def take(self, now: float, earned: float = 0.0) -> bool:
        """Use one; False if none is left. `earned` is added to what time has refilled."""
        self._left = min(self._most, self._left + (now - self._at) * self._rate + earned)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Guard:
    """The allowances of one connection; each method raises `ConnectionFault` ENHANCE_YOUR_CALM when one is used up."""

    __slots__ = ("_control", "_resets", "_seen")

    def __init__(self, limits: spec.ServerLimits, now: float) -> None:
        rate = limits.max_control_frames_per_s
        self._control = Allowance(rate, rate * _BURST, now)
        # Whoever stops at once with all that it has open is no attacker.
        self._resets = Allowance(limits.max_resets_per_s, limits.max_resets_per_s + limits.max_streams, now)
        self._seen = 0

    def control(self, now: float, requests: int, worth: int) -> None:
        """A frame that asks for work and brings no data, from a peer with so many requests and answers so far."""
        total = requests * _PER_REQUEST + worth
        earned, self._seen = total - self._seen, total
        if not self._control.take(now, earned):
            raise frames.ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many control frames")

    def reset(self, now: float) -> None:
        """A stream that ended early by the peer's doing, whoever said so."""
        if not self._resets.take(now):
            raise frames.ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many streams were reset")
