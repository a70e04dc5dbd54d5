"""What teachers answer for the rows of a lesson, or where it has none, what the form itself answers.

Called by the techniques that train towards what was known before. Must never change the form.
"""

from __future__ import annotations

import msgspec
import numpy as np

from windlass import errors
from windlass.optimization import form as forms
from windlass.optimization import runnable
from windlass.optimization.techniques import base
from windlass.optimization.training import networks
from windlass.types import tensor


def taught(lesson: base.Lesson, form: forms.Form, names: tuple[str, ...]) -> base.Lesson:
    """The lesson with its teachers; with the form's own answers for one where it has none. `names` are the inputs."""
    if lesson.teachers:
        return lesson
    own = (
        networks.answers(form.network, names, lesson.inputs) if form.network is not None else _run(form, names, lesson)
    )
    return msgspec.structs.replace(lesson, teachers=(own,))


def _run(form: forms.Form, names: tuple[str, ...], lesson: base.Lesson) -> tensor.Array:
    """The answers of a form without a network: its first output of floats, float32 `[rows, ...]`."""
    loaded = runnable.open(form)
    try:
        parts = []
        for batch in networks.batches(lesson.inputs, names):
            outputs = loaded.run(batch)
            floats = [value for value in outputs.values() if value.dtype.kind == "f"]
            if not floats:
                raise errors.Unsupported(f"the model answers with no floats ({', '.join(outputs)}): it cannot teach.")
            parts.append(floats[0].astype(np.float32))
    finally:
        loaded.close()
    return np.concatenate(parts)
