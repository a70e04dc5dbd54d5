"""Which layers a technique hurts most, and the form that leaves just enough of them as they are.

Called by `study.py` for a technique that can leave nodes out. Must never leave out a layer that the budget can do
without, as far as the time given shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from windlass import errors
from windlass.optimization import findings, likeness
from windlass.optimization import form as forms
from windlass.types import tensor

Answers: TypeAlias = Callable[[forms.Form], Iterable[tensor.Tensors]]
Make: TypeAlias = Callable[[tuple[str, ...]], forms.Form]
# Layers that together make less of the noise are left out last, however little time they take.
_NEGLIGIBLE = 0.01


class Fallen(msgspec.Struct, frozen=True):
    """The form with `excluded` left as they are; `judged` of it, and whether it is `accepted`.

    `layers` are those given, with what was left out marked; `tried` counts the forms that were made for it.
    """

    form: forms.Form
    excluded: tuple[str, ...]
    judged: findings.Judged
    accepted: bool
    layers: tuple[findings.Layer, ...]
    tried: int


def layers(
    nodes: Mapping[str, str],
    make: Make,
    answers: Answers,
    original: Sequence[tensor.Tensors],
    *,
    us: Mapping[str, float],
    go_on: Callable[[], bool] = lambda: True,
) -> tuple[findings.Layer, ...]:
    """Each node's sensitivity, most sensitive first: signal to noise of the outputs when it alone is quantized.

    `nodes` are operators by name, `us` their microseconds (absent: 0); `make(excluded)` is the form with these left
    out, `answers(form)` its outputs for the batches that `original` answers. Stops early when `go_on` says no; a node
    that cannot be quantized alone is passed over.
    """
    found = []
    for node, operator in nodes.items():
        if not go_on():
            break
        try:
            alone = make(tuple(other for other in nodes if other != node))
            like = likeness.compare(zip(answers(alone), original, strict=True))
        except (errors.Unsupported, errors.GateRefused):
            continue
        found.append(findings.Layer(node, operator, like.sqnr_db, us.get(node, 0.0)))
    return tuple(sorted(found, key=lambda layer: layer.sqnr_db))


def fall_back(
    found: Sequence[findings.Layer],
    make: Make,
    judge: Callable[[forms.Form], findings.Judged],
    accept: Callable[[findings.Judged], bool],
    *,
    most: float = 0.5,
    go_on: Callable[[], bool] = lambda: True,
) -> Fallen | None:
    """Leaves out the fewest layers, by loss per microsecond lost, until `accept` says yes.

    The first 1, 2, 4, ... of the order, then by halves between the last two; what turns out not to be needed is put
    back. At most a share `most` of the layers is left out. None: nothing could be tried; `accepted` False: the form
    that came nearest.
    """
    order = [layer.node for layer in ranked(found)]
    search = _Search(make, judge, accept)
    limit = max(1, int(most * len(order)))
    low, high = 0, 1
    while order and not search.accepts(order[: min(high, limit)]) and high < limit and go_on():
        low, high = high, 2 * high
    high = min(high, limit)
    while search.chosen is not None and high - low > 1 and go_on():
        middle = (low + high) // 2
        low, high = (low, middle) if search.accepts(order[:middle]) else (middle, high)
    noise = {layer.node: _noise(layer) for layer in found}
    for node in sorted(search.chosen.excluded if search.chosen else (), key=noise.__getitem__):
        if search.chosen and len(search.chosen.excluded) > 1 and go_on():
            search.accepts([other for other in search.chosen.excluded if other != node])
    best = search.chosen or search.nearest
    if best is None:
        return None
    marked = tuple(msgspec.structs.replace(layer, excluded=layer.node in best.excluded) for layer in found)
    return msgspec.structs.replace(best, layers=marked, tried=search.tried)


def ranked(found: Sequence[findings.Layer]) -> tuple[findings.Layer, ...]:
    """Layers in the order in which to leave them out: noise saved per microsecond lost, highest first.

    The noise of layers adds up, nearly: what makes a hundredth of it together comes last.
    """
    total = sum(map(_noise, found))
    # A layer that no profile names takes little, not nothing.
    least = 0.01 * sum(layer.us for layer in found) / max(1, len(found)) or 1.0
    matters, seen = set(), 0.0
    for layer in sorted(found, key=_noise, reverse=True):
        if seen < (1 - _NEGLIGIBLE) * total:
            matters.add(layer.node)
        seen += _noise(layer)
    return tuple(sorted(found, key=lambda one: (one.node in matters, _noise(one) / max(one.us, least)), reverse=True))


def _noise(layer: findings.Layer) -> float:
    """Noise over signal, of power."""
    return float(10 ** (-layer.sqnr_db / 10))


class _Search:
    """What was tried: the accepted form that leaves out fewest, and the nearest of those that were not accepted."""

    def __init__(
        self,
        make: Make,
        judge: Callable[[forms.Form], findings.Judged],
        accept: Callable[[findings.Judged], bool],
    ) -> None:
        self._make, self._judge, self._accept = make, judge, accept
        self.chosen: Fallen | None = None
        self.nearest: Fallen | None = None
        self.tried = 0

    def accepts(self, excluded: Sequence[str]) -> bool:
        self.tried += 1
        try:
            form = self._make(tuple(excluded))
            judged = self._judge(form)
        except (errors.Unsupported, errors.GateRefused):
            return False
        accepted = self._accept(judged)
        found = Fallen(form, tuple(excluded), judged, accepted, (), 0)
        if accepted:
            self.chosen = found
        elif self.nearest is None or judged.drop.high < self.nearest.judged.drop.high:
            self.nearest = found
        return accepted
