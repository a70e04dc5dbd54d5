"""`windlass demo --life`: its parts with a small model, and all of it as a drill."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from windlass import errors, references, sdk, settings
from windlass.cli import life, life_figures, life_plane, output, planes
from windlass.client import load, report, witness
from windlass.packaging import archive
from windlass.serving import launch
from windlass.types import evidence

pytestmark = pytest.mark.timeout(300)
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 30], "datatype": "FP32", "data": [0.1] * 30}]}).encode()
# A model without labels: the right one is none.
TRUTHS = [""]
RATE = 40.0


@pytest.fixture
def context(tmp_path: Path, packages: Any) -> output.Context:
    """A home with two versions of `digits`."""
    configuration = settings.Settings(home=tmp_path / "home")
    with contextlib.closing(references.open_registry(configuration)) as registry:
        for seed in (1, 2):
            made = archive.open_path(Path(packages.mlp("digits", seed=seed).arms[0].path))
            registry.push(
                made, name="digits", actor="ann", evidence=[evidence.Evidence(made.digest, "parity", "passed")]
            )
    return output.Context(configuration)


@contextlib.contextmanager
def alive(context: output.Context) -> Iterator[life.Life]:
    """A life that has begun: a control plane, the first version, and a load."""
    key = life_plane.typed(context, "keys", "create", "life", "--scope", "model:predict")
    with life_plane.running(context, 0) as told:
        life_plane.typed(context, "deploy", "digits", "digits@1", "--wait")
        url = f"{told.server}/v2/models/digits/infer"
        target = load.http(url, BODY, headers={"authorization": f"Bearer {key}"})
        with witness.Witness(witness.Watch(load.opened(target, rate=RATE), "life1", 100)) as asked:
            versions = {role: sdk.Version("digits", number, "") for number, role in ((1, "first"), (2, "good"))}
            yield life.Life(context, versions, dict.fromkeys(versions, "why"), asked, TRUTHS)


def test_a_rollout_and_the_way_back_are_seen_by_the_load(
    context: output.Context, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.time()
    with alive(context) as lived:
        with pytest.raises(errors.Conflict, match="is running"):
            life_plane.refuse_if_up(context)
        with life_plane.Labels(context, "digits", lived.load, TRUTHS):
            life.roll_out(lived, "rolling", "good", "rolling", ("batch=50", "batch_s=1.5"))
        life.back(lived)
        life.record(lived, begun)
        account = lived.load.stop()
        life.tell(context, lived.ended, account, begun)
        with planes.deployments(context) as found:
            told = found.feedback("digits")
        answers = lived.load.answers()
    assert launch.find(context.settings.home) is None
    assert [(one.what, one.version, one.live) for one in lived.ended] == [("rolling", 2, 2), ("rollback", 1, 1)]
    assert lived.ended[0].shares == (50.0,)
    seen = life_figures.by_version(answers, TRUTHS, begun)
    assert seen["2"].requests > 0
    assert seen["1"].requests + seen["2"].requests == account.scheduled == len(answers)
    assert answers[-1].version == "1"
    assert told.labels > 0
    said = capsys.readouterr()
    assert f"{account.scheduled:,} requests" in said.out
    assert re.search(r"the last answer of digits@2 came \d+\.\d\d s after the command", said.err)
    assert "entries: each follows from the one before" in said.err
    assert "the demo goes back" in said.err
    # What is shown can be typed.
    assert "$ windlass rollback digits --reason 'the demo goes back'" in said.err


@pytest.mark.parametrize("outcome", ["failed", "rejected", "expired", "broken", "not_sent"])
def test_a_request_without_its_answer_is_no_good_end(tmp_path: Path, outcome: str) -> None:
    account = report.Report(seconds=(report.Second(report.Outcomes(ok=99, **{outcome: 1})),))
    quiet = output.Context(settings.Settings(home=tmp_path), quiet=True)
    with pytest.raises(errors.InternalError, match="1 of 100 requests failed") as caught:
        life.tell(quiet, [], account, time.time())
    assert caught.value.exit_code == 1


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.promise("P-37")
def test_all_of_it(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINDLASS_")}
    line = [sys.executable, "-m", "windlass.cli.main", "--home", str(tmp_path / "home"), "--json", "demo"]
    done = subprocess.run(
        [*line, "--life", "--once"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=850
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["failed"] == 0
    assert told["requests"] > 5_000
    by_what = {one["what"]: one for one in told["rollouts"]}
    assert {what: by_what[what]["verdict"] for what in by_what if what != "rollback"} == {
        "canary (good)": "PROMOTE",
        "canary (slow)": "ABORT",
        "canary (wrong)": "ABORT",
        "shadow": "ABORT",
        "A/B": "PROMOTE",
    }
    assert by_what["canary (wrong)"]["wrong"] > 0
    assert by_what["rollback"]["live"] == 2
