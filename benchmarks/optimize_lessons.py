"""What the optimization benchmarks train: forms of the character network of examples/optimize, by three seeds.

Called by `optimize_models.py` and `optimize_trained.py`; as a program (`--seed 0`) it trains beforehand, as training
needs no quiet machine. What was trained once is kept in build/optimize. Must never show a network the evaluation rows,
nor measure how quick it is.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from examples.optimize import networks, train  # noqa: E402

from windlass import plugins  # noqa: E402
from windlass.optimization import form as forms  # noqa: E402
from windlass.optimization.techniques import base  # noqa: E402
from windlass.optimization.training import export, fit  # noqa: E402
from windlass.packaging import archive, package  # noqa: E402
from windlass.packaging.capture import base as capture  # noqa: E402

SEEDS = (0, 1, 2)
KEPT = ROOT / "build" / "optimize" / "kept"
# Of the example's 30,000 images: three seeds of everything take a few minutes on one core.
ROWS, HELD = 12_000, 1_200
EPOCHS = 10
_PRUNE = {"ratio": 0.5, "epochs": 5}
_AWARE = {"epochs": 2}
_RATE = 3e-3
# No limit that a busy machine would meet: it would change what is trained.
_SECONDS = 1e6


def trained(name: str) -> torch.nn.Module:
    """A network of the examples with its weights; trained now where they are missing."""
    os.chdir(ROOT)
    if not (networks.KEPT / f"{name}-0.safetensors").exists():
        train.write_weights(name)
    return networks.trained(name)


@functools.cache
def character_package() -> archive.Package:
    """The character network, packaged."""
    images = train.rows("characters", "eval")[0][:16]
    options = capture.Options(example={"input": images})
    return package.package(trained("character_cnn"), name="characters", options=options).package


def original() -> forms.Form:
    """The character network as it was trained."""
    files = {name: bytes(data) for name, data in character_package().model_files().items()}
    return forms.Form(files=files, network=trained("character_cnn"))


def pruned(seed: int) -> forms.Form:
    """The original with half of its channels, which has learned from its former self."""
    return _made("prune_structural", original(), _PRUNE, materials(seed))


def aware(seed: int) -> forms.Form:
    """The pruned one in integers that it was trained for."""
    return _made("quantize_aware", pruned(seed), _AWARE, materials(seed))


def student(seed: int) -> forms.Form:
    """A network with a ninth of the weights that has learned from labels alone."""
    return _student(seed, _lesson(), fit.Plan(("input",), purpose="a student alone"))


def taught(seed: int) -> forms.Form:
    """The same network by the same rows, steps and rate, which has learned from an ensemble of three as well.

    As the technique `distill` does it by default, but for the passes over the rows.
    """
    lesson = msgspec.structs.replace(_lesson(), teachers=ensemble())
    return _student(seed, lesson, fit.Plan(("input",), alpha=0.7, temperature=3.0, purpose="a student of three"))


def _student(seed: int, lesson: base.Lesson, plan: fit.Plan) -> forms.Form:
    torch.manual_seed(seed)
    wanted = msgspec.structs.replace(plan, seconds=_SECONDS, seed=seed, epochs=EPOCHS, rate=_RATE)
    found = fit.fit(networks.character_student(), lesson, wanted, kept=KEPT, say=say)
    return export.to_form(found.network, original(), forms.Step("student"), materials(seed))


@functools.cache
def ensemble() -> tuple[np.ndarray, ...]:
    """What three teachers answer for the rows of the lesson: the original, and two of the pruned."""
    found = []
    for form in (original(), *(pruned(seed) for seed in SEEDS[:2])):
        with torch.inference_mode():
            parts = [form.network(part).numpy() for part in torch.from_numpy(_lesson().inputs["input"]).split(500)]
        found.append(np.concatenate(parts))
    return tuple(found)


def materials(seed: int) -> base.Materials:
    """What techniques are given."""
    images = _lesson().inputs["input"]
    return base.Materials(
        signature=character_package().manifest.signature,
        calibration=tuple({"input": part} for part in np.split(images[:512], 8)),
        folder=KEPT,
        lesson=_lesson(),
        seed=seed,
        budget_s=_SECONDS,
        kept=KEPT,
        say=say,
    )


@functools.cache
def _lesson() -> base.Lesson:
    images, labels = train.rows("characters", "train")
    return base.Lesson(
        inputs={"input": images[HELD:ROWS]},
        labels=labels[HELD:ROWS],
        holdout_inputs={"input": images[:HELD]},
        holdout_labels=labels[:HELD],
    )


@functools.cache
def _technique(name: str) -> type[base.Technique]:
    return plugins.load("techniques", name)


def _made(name: str, form: forms.Form, parameters: Mapping[str, Any], given: base.Materials) -> forms.Form:
    KEPT.mkdir(parents=True, exist_ok=True)
    return _technique(name).apply(form, parameters, given)


def say(words: str) -> None:
    """Progress, for who waits."""
    print(f"[{time.strftime('%H:%M:%S')}] {words}", file=sys.stderr, flush=True)


def main() -> None:
    """Train all of one seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, choices=SEEDS)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    for make in (pruned, student, aware, taught):
        say(f"seed {seed}: {make.__name__}")
        make(seed)


if __name__ == "__main__":
    main()
