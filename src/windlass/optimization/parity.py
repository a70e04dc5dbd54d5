"""The parity matrix: the original and the chosen form in every runtime that is here, against what is served.

Called by a study at its end. Must never call passed what could not be tried, nor let a library send anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from windlass.optimization import findings
from windlass.optimization import form as forms
from windlass.types import tensor


def matrix(
    original: forms.Form,
    chosen: forms.Form | None,
    inputs: tensor.Tensors,
    *,
    compiled: tuple[forms.Form, ...] = (),
    seconds: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[findings.Parity, ...]:
    """One cell for each form and runtime, on these inputs (a few real rows, as the model takes them).

    `compiled` are forms of other runtimes that were made of the original (AOTInductor). Cells that do not fit into
    `seconds` any more are skipped, with that reason.
    """
    raise NotImplementedError
