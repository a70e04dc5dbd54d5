"""The way back through the whole control plane, under load: by command, by revocation, and over other limits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)
BACK_S = 2.0


def _backs(api: Any, callers: Any, first: Any, second: Any, times: int) -> list[float]:
    """To the second and back; the seconds from asking for the way back to the last answer of what was left."""
    backs = []
    for _ in range(times):
        api.deploy(second)
        api.live(second)
        asked = time.time()
        api.done("POST", f"/deployments/{first.name}/rollback", reason="it is bad")
        api.live(first)
        time.sleep(0.15)
        backs.append(max((one.at for one in callers.of(second.arm)), default=asked) - asked)
    return backs


@pytest.mark.promise("P-37")
@pytest.mark.promise("P-44")
def test_there_and_back_under_load(plane: Any) -> None:
    api = plane.up()
    first, second = plane.release("m", run_ms=2), plane.release("m", run_ms=2.5)
    api.deploy(first)
    api.live(first)
    callers = plane.callers("m", key=api.key)
    backs = _backs(api, callers, first, second, 2)
    # What is live is revoked: nobody has to say where to go.
    api.deploy(second)
    api.live(second)
    api.done("POST", f"/digests/{second.digest}/revoke", reason="it leaks")
    api.live(first)
    gone = time.time()
    # Nor can anybody bring it back.
    status, told = api.ask("PUT", "/deployments/m", name="m", ref="m@2")
    assert (status, told["error"]["code"]) == (422, "gate_refused")
    # Other limits are another rollout of the same release.
    api.deploy(first, serving={"timeout_ms": 20_000})
    api.live(first)
    time.sleep(0.15)
    callers.stop()
    assert callers.failed == []
    assert max(one.asked for one in callers.of(second.arm)) < gone
    # With room for a machine that has other things to do; the figures are the long drill's.
    assert min(backs) < BACK_S, backs


@pytest.mark.soak
@pytest.mark.promise("P-37")
@pytest.mark.timeout(3_600)
def test_a_hundred_rollbacks_lose_nobody(plane: Any, record: Callable[[str, int], Any]) -> None:
    kept = record("rollbacks", 100)
    api = plane.up()
    first, second = plane.release("m", run_ms=2), plane.release("m", run_ms=2.5)
    api.deploy(first)
    api.live(first)
    callers = plane.callers("m", key=api.key)
    backs = _backs(api, callers, first, second, 100)
    callers.stop()
    late = sum(back > BACK_S for back in backs)
    kept.add(100, requests=len(callers.answers), failed=len(callers.failed), late=late)
    found = kept.finish(slowest_s=max(backs), median_s=statistics.median(backs))
    assert found["failed"] == 0, found
    assert found["late"] == 0, found


@pytest.mark.soak
@pytest.mark.promise("P-44")
@pytest.mark.timeout(3_600)
def test_a_hundred_other_limits_lose_nobody(plane: Any, record: Callable[[str, int], Any]) -> None:
    kept = record("limits", 100)
    api = plane.up()
    first = plane.release("m", run_ms=2)
    api.deploy(first)
    api.live(first)
    callers = plane.callers("m", key=api.key)
    for number in range(100):
        api.deploy(first, serving={"timeout_ms": 20_000 + number})
        api.live(first)
    callers.stop()
    kept.add(100, requests=len(callers.answers), failed=len(callers.failed))
    kept.finish()
    assert callers.failed == []


def test_while_the_database_is_away_what_is_served_goes_on(postgres_plane: Any, postgres: Any) -> None:
    plane = postgres_plane
    api = plane.up()
    first, second = plane.release("m", run_ms=2), plane.release("m", run_ms=2.001)
    api.deploy(first)
    api.live(first)
    callers = plane.callers("m", key=api.key)
    # Equally good, and not judged by its speed: only the database is in the way of its promotion.
    quick = {"steps": [50.0], "step_s": 3.0, "min_s": 3.0, "margin": 0.3, "latency": False}
    api.deploy(second, strategy={"kind": "canary", "parameters": quick})
    plane.until(lambda: len(callers.of(second.arm)) > 0)
    postgres.halt()
    away = time.time()
    for method, path, body in (("GET", "/deployments/m", {}), ("POST", "/deployments/m/rollback", {"reason": "bad"})):
        status, told = api.ask(method, path, **body)
        assert (status, told["error"]["code"]) == (503, "unavailable"), told
    # Longer than the step would have taken: nothing is decided that cannot be put on record.
    time.sleep(3.5)
    spec = plane.in_server()
    assert {arm.name: arm.share for arm in spec.endpoints[0].arms} == {first.arm: 50.0, second.arm: 50.0}
    asked = [one for one in list(callers.answers) if one.at > away]
    assert {one.version for one in asked} == {first.arm, second.arm}
    postgres.again()
    api.live(second, 90.0)
    callers.stop()
    assert callers.failed == []
    numbers = [step.number for step in plane.steps("m")]
    assert numbers == list(range(len(numbers)))
