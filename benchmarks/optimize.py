"""What `windlass optimize` makes of a dozen shapes of models, beside what people do today; the bars O1 to O10.

Run by `make bench-optimize`, on a quiet machine (`[--only resnet50 minilm] [--quick] [--again]`); each model's figures
are kept in build/benchmarks/optimize and not measured twice. Writes results/optimize.json, and results/optimize.md, the
last part of RESULTS.md. Must never time two forms one after the other.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
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

from windlass import errors  # noqa: E402
from windlass.optimization import accuracy, budget, data, graphs, measure, runnable, search, study  # noqa: E402
from windlass.optimization import form as forms  # noqa: E402
from windlass.packaging import archive, dataset, package, session  # noqa: E402
from windlass.packaging.capture import base  # noqa: E402

KEPT = HERE.parent / "build" / "benchmarks" / "optimize"
LABEL = "label"
PEER = measure.Method(most_s=8.0)


def packaged(shape: shapes.Shape, model: Any) -> archive.Package:
    """The shape as `windlass package` makes it."""
    example = shape.rows(4)
    options = base.Options(example={"": example["x"]} if shape.trees else example)
    return package.package(model, name=shape.name.replace("_", "-"), options=options, max_batch=shape.max_batch).package


def columns(parent: archive.Package, shape: shapes.Shape) -> dataset.Dataset:
    """The shape's rows under the names of the package's inputs, and their labels where it has any."""
    names = [spec.name for spec in parent.manifest.signature.inputs]
    found = dict(zip(names, shape.rows(shape.size).values(), strict=True))
    if shape.labels is not None:
        found[LABEL] = shape.labels(shape.size)
    return dataset.Dataset(found, "sha256:" + "0" * 64)


def asked(shape: shapes.Shape) -> budget.Budget:
    """One percent of accuracy; without labels, of the cosine with the original's answers."""
    if shape.labels is not None:
        return budget.Budget(drop=budget.Allowance(0.01, relative=True))
    return budget.Budget(drop=budget.Allowance(1 - shape.cosine, relative=False))


def measured(shape: shapes.Shape, *, quick: bool) -> dict[str, Any]:
    """A study of one shape without training, and its peers, each beside the same original."""
    model = shapes.seeded(shape)
    parent = packaged(shape, model)
    given = columns(parent, shape)
    found: dict[str, Any] = {"name": shape.name, "title": shape.title, "machine": measure.machine()}
    found |= {"bytes": parent.manifest.model.blobs["model.onnx"].size}
    job = study.Job(
        parent,
        shape.name,
        budget=asked(shape),
        data=given,
        labels=None if shape.labels is None else LABEL,
        metric=None if shape.labels else "cosine",
        seconds=20.0 if quick else shape.seconds,
        batches=(1, shape.batch),
    )
    began = time.monotonic()
    result = study.run(
        job,
        progress=lambda words: say(f"{shape.name}: {words}"),
        tell=lambda tried: say(f"{shape.name}: {tried.name}: {tried.why or search.told(tried)}"),
    )
    found["study"] = msgspec.to_builtins(result.report)
    found["study_s"] = time.monotonic() - began
    found["peers"] = list(_peers(shape, model, parent, given, quick=quick))
    return found


def _peers(
    shape: shapes.Shape, model: Any, parent: archive.Package, given: dataset.Dataset, *, quick: bool
) -> Iterator[dict[str, Any]]:
    original = forms.Form({name: bytes(held) for name, held in parent.model_files().items()})
    loaded = session.open(parent)
    parts = data.split(loaded, given, None if shape.labels is None else LABEL, seed=0)
    judge = accuracy.Judge(loaded, parts.search)
    first = {name: values[:1] for name, values in parts.search.batches[0].items()}
    baseline = runnable.open(original)
    for name, made in peers.onnx_peers(graphs.read(original).SerializeToString(), parts.calibration.batches):
        if isinstance(made, str):
            yield {"name": name, "failed": made}
            continue
        say(f"{shape.name}: {name}")
        form = forms.Form({"model.onnx": made})
        yield _beside(name, baseline, form, judge, first)
    for name in () if quick else shape.compiled:
        say(f"{shape.name}: {name}")
        yield _torch_peer(name, peers.TORCH[name], model, baseline, first)
    baseline.close()
    loaded.close()


def _beside(
    name: str, baseline: runnable.Runnable, form: forms.Form, judge: accuracy.Judge, first: dict[str, np.ndarray]
) -> dict[str, Any]:
    try:
        candidate = runnable.open(form)
    except Exception as e:
        return {"name": name, "failed": str(e)[:300]}
    timing = measure.pair(baseline, candidate, first, rows=1, threads=1, method=PEER)
    found = {"name": name, "timing": msgspec.to_builtins(timing), "bytes": form.size}
    try:
        found |= {"judged": msgspec.to_builtins(judge.judge(candidate.run))}
    except errors.WindlassError as e:
        found |= {"failed": str(e)[:300]}
    candidate.close()
    return found


class _Function:
    """A peer's function as what `measure.pair` times: torch on one thread, which is this one."""

    inside = True

    def __init__(self, run: Any) -> None:
        self.run = run

    def again(self) -> _Function:
        """There is one compiled program."""
        return self

    def close(self) -> None:
        """Nothing is held."""


def _torch_peer(
    name: str, make: Any, model: Any, baseline: runnable.Runnable, first: dict[str, np.ndarray]
) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    try:
        run = make(model, first)
    except Exception as e:
        return {"name": name, "failed": f"{type(e).__name__}: {e}"[:300]}
    timing = measure.pair(baseline, _Function(run), first, rows=1, threads=1, method=PEER)
    return {"name": name, "timing": msgspec.to_builtins(timing)}


def say(words: str) -> None:
    """Progress, for who waits."""
    print(f"[{time.strftime('%H:%M:%S')}] {words}", file=sys.stderr, flush=True)


def kept(name: str, make: Any, *, again: bool) -> dict[str, Any] | None:
    """What was measured of a model before, else what is measured now; None where that went wrong, which is said."""
    path = KEPT / f"{name}.json"
    if path.exists() and not again:
        return json.loads(path.read_text())
    say(f"{name}: begins")
    try:
        found = make()
    except Exception:
        # The others go on: each takes minutes.
        say(f"{name}: failed\n{traceback.format_exc()}")
        return None
    KEPT.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1))
    say(f"{name}: done")
    return found


def main() -> int:
    """Measures what is not measured yet, and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*shapes.SHAPES, *trained.STUDIES])
    parser.add_argument("--quick", action="store_true", help="the small models, and little time for each")
    parser.add_argument("--again", action="store_true", help="measure anew what is kept")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    chosen = options.only or [name for name, shape in shapes.SHAPES.items() if shape.quick or not options.quick]
    chosen += [] if options.only else list(trained.STUDIES)
    found: dict[str, dict[str, Any]] = {}
    for name in chosen:
        shape = shapes.SHAPES.get(name)
        make = functools.partial(*(trained.STUDIES[name],) if shape is None else (measured, shape), quick=options.quick)
        one = kept(name, make, again=options.again)
        if one is not None:
            found[name] = one
    failed = [name for name in chosen if name not in found]
    text = report.section(found)
    print(text)
    if failed:
        say(f"failed, and not published: {', '.join(failed)}")
    elif not options.quick and not options.only:
        report.publish(text, found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
