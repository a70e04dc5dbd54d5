"""A compiled form becomes a package: it carries code, says what instructions it needs, and runs behind the walls."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from windlass import errors
from windlass.optimization import data, findings, release
from windlass.optimization import form as forms
from windlass.optimization.techniques import base
from windlass.packaging import package as packages
from windlass.packaging import session, verdicts
from windlass.packaging.capture import base as capture

ROWS = np.random.default_rng(1).normal(size=(64, 24)).astype(np.float32)


def study(parent: packages.Packaged, chosen: forms.Form) -> findings.Report:
    """What is said of it is no matter here."""
    same = findings.Judged(
        False,
        findings.Drop("agreement", len(ROWS), 1.0, 1.0, 0.0, 0.0, 0.0),
        findings.Likeness(len(ROWS), 1.0, 100.0, 1.0, 0.0),
    )
    one = findings.Candidate(chosen.digest, chosen.name, chosen.steps, "chosen", "it is.", (), None, same)
    return findings.Report(
        parent=parent.package.digest,
        reference="net@1",
        verdict="optimized",
        sentence="It is compiled.",
        chosen=chosen.digest,
        nearest="",
        asked={},
        baseline=msgspec.structs.replace(one, digest="sha256:" + "0" * 64, name="original", steps=(), verdict="kept"),
        candidates=(one,),
        pareto=(chosen.digest,),
        profile=None,
        layers=(),
        parity=(),
        settings=(),
        cost={},
        recipe="",
        machine={},
        data={},
        seconds=1.0,
    )


@pytest.mark.soak
def test_a_compiled_form_is_released_and_answers_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    aoti = pytest.importorskip("windlass.optimization.techniques.aoti")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.GELU(), torch.nn.Linear(32, 5)).eval()
    parent = packages.package(network, name="net", options=capture.Options(example={"x": ROWS}), max_batch=64)
    original = forms.Form({n: bytes(d) for n, d in parent.package.model_files().items()}, network=network)
    materials = base.Materials(parent.package.manifest.signature, ({"x": ROWS},), tmp_path)
    made = aoti.Aoti.apply(original, {}, materials)
    assert (made.runtime, made.network) == ("aoti", None)
    assert b".wrapper.cpp" not in made.files["model.pt2"].split(b"PK\x01\x02", 1)[1]

    rows = data.Rows(({"x": ROWS},), None, {}, "sha256:" + "c" * 64, len(ROWS))
    released = release.release(parent.package, made, study(parent, made), rows)
    model = released.package.manifest.model
    assert (model.runtime, model.needs_isa) == ("aoti", verdicts.isa())
    with pytest.raises(errors.Unsupported, match="carry code"):
        session.open(released.package)
    opened = session.open(released.package, where="apart")
    try:
        ours = opened.run({"x": ROWS[:3]})
    finally:
        opened.close()
    theirs = network(torch.from_numpy(ROWS[:3])).detach().numpy()
    np.testing.assert_allclose(next(iter(ours.values())), theirs, rtol=1e-4, atol=1e-5)

    monkeypatch.setattr(verdicts, "isa", lambda: "x86_64 sse4_2")
    with pytest.raises(errors.Unsupported, match="compiled for avx"):
        session.open(released.package, where="apart")
