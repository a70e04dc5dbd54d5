"""The rows that are kept as golden are compared as parity compares them: by the outputs' usual magnitude."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from windlass import errors, plugins
from windlass.packaging import build, draft, parity
from windlass.runtimes import base
from windlass.types import signature

X = signature.TensorSpec("x", "FP32", ("batch", 1))
Y = msgspec.structs.replace(X, name="y")


@pytest.mark.promise("P-28")
@pytest.mark.parametrize(("usual", "passes"), [(1e3, True), (1e-3, False)])
def test_small_rows_are_kept_as_golden_where_parity_holds(usual: float, passes: bool) -> None:
    small, others = np.full((4, 1), 1e-3, np.float32), np.full((4, 1), usual, np.float32)
    # The echo runtime answers 1e-5 less: much of the small rows, nothing of the usual ones.
    first = draft.Trial("small", {"x": small}, {"y": small + np.float32(1e-5)})
    drafted = draft.Draft(
        files={"echo.json": msgspec.json.encode({"inputs": [X], "outputs": [Y]})},
        signature=signature.Signature((X,), (Y,)),
        trials=(first, *(draft.Trial(f"usual {i}", {"x": others}, {"y": others}) for i in range(3))),
        framework="echo",
        runtime="echo",
        max_batch=4,
    )
    model = plugins.load("runtimes", "echo").load(drafted.files, base.Options())
    if passes:
        parity.check(model, drafted)
        assert build.build(drafted, name="m").manifest.name == "m"
        return
    with pytest.raises(errors.GateRefused):
        parity.check(model, drafted)
    with pytest.raises(errors.GateRefused):
        build.build(drafted, name="m")
