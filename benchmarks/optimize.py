"""What `windlass optimize` makes of a dozen shapes of models, beside what people do today; the bars O1 to O10.

Run by `make bench-optimize`, on a quiet machine (`[--only resnet50 minilm] [--quick] [--again]`); each model's figures
are kept in build/benchmarks/optimize and not measured twice. Writes results/optimize.json, and results/optimize.md, the
last part of RESULTS.md. Must never time two forms one after the other.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import msgspec  # noqa: E402
import numpy as np  # noqa: E402
import optimize_models as shapes  # noqa: E402
import optimize_peers as peers  # noqa: E402
import optimize_report as report  # noqa: E402
import optimize_trained as trained  # noqa: E402

from windlass.optimization import accuracy, budget, data, findings, measure, runnable, study  # noqa: E402
from windlass.optimization import form as forms  # noqa: E402
from windlass.packaging import archive, dataset, package, session  # noqa: E402
from windlass.packaging.capture import base  # noqa: E402

KEPT = HERE.parent / "build" / "benchmarks" / "optimize"
SECONDS = 90.0
BATCHES = (1, 32)
# Random weights answer at random: what their classes are says nothing, so that speed alone is asked.
ANY = budget.Budget(drop=budget.Allowance(1.0, relative=False))
# Without labels the drop is of the cosine: the real sentence encoder keeps 0.985.
CLOSE = budget.Budget(drop=budget.Allowance(0.015, relative=False))


def packaged(shape: shapes.Shape, model: Any) -> archive.Package:
    """The shape as `windlass package` makes it."""
    example = shape.rows(4)
    options = base.Options(example={"": example["x"]} if shape.trees else example)
    return package.package(model, name=shape.name.replace("_", "-"), options=options, max_batch=shape.max_batch).package


def columns(parent: archive.Package, rows: Mapping[str, np.ndarray]) -> dataset.Dataset:
    """The rows under the names of the package's inputs."""
    names = [spec.name for spec in parent.manifest.signature.inputs]
    return dataset.Dataset(dict(zip(names, rows.values(), strict=True)), "sha256:" + "0" * 64)


def measured(shape: shapes.Shape, *, quick: bool) -> dict[str, Any]:
    """A study of one shape without training, and its peers, each beside the same original."""
    model = shapes.seeded(shape)
    parent = packaged(shape, model)
    given = columns(parent, shape.rows(shape.size))
    found: dict[str, Any] = {"name": shape.name, "title": shape.title, "machine": measure.machine()}
    found |= {"bytes": parent.manifest.model.blobs["model.onnx"].size}
    job = study.Job(
        parent,
        shape.name,
        budget=CLOSE if shape.name == "minilm" else ANY,
        data=given,
        seconds=20.0 if quick else SECONDS,
        batches=tuple(min(rows, shape.max_batch) for rows in BATCHES),
    )
    began = time.monotonic()
    result = study.run(job, progress=lambda words: say(f"{shape.name}: {words}"))
    found["study"] = msgspec.to_builtins(result.report)
    found["study_s"] = time.monotonic() - began
    found["peers"] = list(_peers(shape, model, parent, given, quick=quick))
    return found


def _peers(
    shape: shapes.Shape, model: Any, parent: archive.Package, given: dataset.Dataset, *, quick: bool
) -> Iterator[dict[str, Any]]:
    original = forms.Form({name: bytes(held) for name, held in parent.model_files().items()})
    loaded = session.open(parent)
    parts = data.split(loaded, given, None, seed=0)
    judge = accuracy.Judge(loaded, parts.search)
    loaded.close()
    first = {name: values[:1] for name, values in parts.search.batches[0].items()}
    baseline = runnable.open(original)
    for name, made in peers.onnx_peers(original.files["model.onnx"], parts.calibration.batches):
        if isinstance(made, str):
            yield {"name": name, "failed": made}
            continue
        say(f"{shape.name}: {name}")
        form = forms.Form({"model.onnx": made})
        yield _beside(name, baseline, form, judge, first)
    if shape.trees or quick:
        return
    for name, make in peers.TORCH.items():
        say(f"{shape.name}: {name}")
        yield _torch_peer(name, make, model, baseline, first)
    baseline.close()


def _beside(
    name: str, baseline: runnable.Runnable, form: forms.Form, judge: accuracy.Judge, first: dict[str, np.ndarray]
) -> dict[str, Any]:
    try:
        candidate = runnable.open(form)
    except Exception as e:
        return {"name": name, "failed": str(e)[:300]}
    timing = measure.pair(baseline, candidate, first, rows=1, threads=1)
    likeness = judge.judge(candidate.run).likeness
    candidate.close()
    return {"name": name, "timing": _plain(timing), "likeness": _plain(likeness), "bytes": form.size}


class _Function:
    """A peer's function as what `measure.pair` times."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def close(self) -> None:
        """Nothing is held."""


def _torch_peer(
    name: str, make: Any, model: Any, baseline: runnable.Runnable, first: dict[str, np.ndarray]
) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    began = time.monotonic()
    try:
        run = make(model, first)
    except Exception as e:
        return {"name": name, "failed": f"{type(e).__name__}: {e}"[:300]}
    compiling = time.monotonic() - began
    timing = measure.pair(baseline, _Function(run), first, rows=1, threads=1)
    return {"name": name, "timing": _plain(timing), "compile_s": compiling}


def _plain(value: findings.Timing | findings.Likeness) -> dict[str, Any]:
    return msgspec.to_builtins(value)


def say(words: str) -> None:
    """Progress, for who waits."""
    print(f"[{time.strftime('%H:%M:%S')}] {words}", file=sys.stderr, flush=True)


def kept(name: str, make: Any, *, again: bool) -> dict[str, Any]:
    """What was measured of a model before, else what is measured now."""
    path = KEPT / f"{name}.json"
    if path.exists() and not again:
        return json.loads(path.read_text())
    say(f"{name}: begins")
    found = make()
    KEPT.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1))
    return found


def main() -> int:
    """Measures what is not measured yet, and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*shapes.SHAPES, *trained.STUDIES])
    parser.add_argument("--quick", action="store_true", help="the small models, and little time for each")
    parser.add_argument("--again", action="store_true", help="measure anew what is kept")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    chosen = asked.only or [name for name, shape in shapes.SHAPES.items() if shape.quick or not asked.quick]
    chosen += [] if asked.only else list(trained.STUDIES)
    found: dict[str, dict[str, Any]] = {}
    for name in chosen:
        if name in shapes.SHAPES:
            shape = shapes.SHAPES[name]
            found[name] = kept(name, lambda shape=shape: measured(shape, quick=asked.quick), again=asked.again)
        else:
            found[name] = kept(name, lambda make=trained.STUDIES[name]: make(quick=asked.quick), again=asked.again)
    text = report.section(found)
    print(text)
    if not asked.quick and not asked.only:
        report.publish(text, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
