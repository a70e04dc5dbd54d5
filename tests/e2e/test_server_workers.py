"""Several workers under a supervisor: killed, hung, replaced and stopped under load, and who loses what by it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import orjson
import pytest

from windlass import errors
from windlass.client import control, load
from windlass.security import keys
from windlass.types import spec

ROW = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1] * 4}]})
WORKERS = 2
# On a machine that is not busy with other things.
RESTART_S = 2.0


SCOPES = ("model:read", "model:predict", "model:load")
PEPPER = "0f" * 16
(IDENTITY, SECRET), (OTHER, OTHER_SECRET) = keys.generate(), keys.generate()
KEY, OTHER_KEY = {"x-api-key": SECRET}, {"x-api-key": OTHER_SECRET}


def _key(identity: str, secret: str) -> spec.Key:
    return spec.Key(identity, keys.hmac_of(secret, bytes.fromhex(PEPPER)), SCOPES)


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any], packages: Any) -> Any:
    """Two workers, and a model that they load when they are asked to."""
    return start_server(
        packages.echo("m"),
        workers=WORKERS,
        repository=(packages.echo("spare"),),
        keys=(_key(IDENTITY, SECRET), _key(OTHER, OTHER_SECRET)),
        key_pepper=PEPPER,
    )


@pytest.fixture
def operator(server: Any) -> Iterator[control.Control]:
    one = control.Control(server.control)
    yield one
    one.close()


def _asking(server: Any, connections: int = 8) -> load.Load:
    target = load.http(f"{server.url}/v2/models/m/infer", ROW, headers=KEY)
    return load.Load(load.closed(target, connections=connections, observe=True)).start()


def _workers(server: Any) -> dict[int, dict[str, Any]]:
    """The workers that serve, by process id."""
    told = httpx.get(f"{server.admin_url}/status").json()["workers"]
    return {one["pid"]: one for one in told if one["state"] == "serving"}


def _until(condition: Callable[[], Any], seconds: float) -> float:
    """How long it took until the condition held; fails after `seconds`."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "it did not come to pass"
        time.sleep(0.02)
    return time.monotonic() - started


def _whole(server: Any) -> bool:
    return len(_workers(server)) == WORKERS


def _ended(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def test_connections_are_spread_evenly(server: Any) -> None:
    connections = [server.connect() for _ in range(64)]
    _until(lambda: sum(one["connections"] for one in _workers(server).values()) == 64, 3)
    counts = [one["connections"] for one in _workers(server).values()]
    for connection in connections:
        connection.close()
    assert max(counts) <= 1.3 * min(counts)


@pytest.mark.promise("P-51")
def test_a_killed_worker_loses_only_what_it_had_in_flight(server: Any) -> None:
    times = 2
    before = server.outcomes()
    asking = _asking(server)
    for _ in range(times):
        time.sleep(0.3)
        victim = next(iter(_workers(server)))
        os.kill(victim, signal.SIGKILL)
        took = _until(lambda pid=victim: pid not in _workers(server) and _whole(server), 20)  # type: ignore[misc]
        assert took < RESTART_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    time.sleep(0.2)
    report = asking.stop()
    after = {outcome: count - before[outcome] for outcome, count in server.outcomes().items()}
    # Only what was in flight in a killed worker was lost, and the server counts it as failed.
    assert report.lost == report.outcomes.broken <= 8 * times
    assert after["ok"] >= report.answered
    assert after["ok"] + after["failed"] <= report.sent
    assert report.sent - after["ok"] - after["failed"] <= report.outcomes.broken
    assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
    assert httpx.get(f"{server.admin_url}/status").json()["restarts"] >= 2


@pytest.mark.promise("P-46")
def test_workers_that_make_no_progress_are_replaced_and_meanwhile_nobody_is_ready(server: Any) -> None:
    _until(lambda: _whole(server), 20)
    victims = list(_workers(server))
    assert httpx.get(f"{server.admin_url}/health").status_code == 200
    for victim in victims:
        os.kill(victim, signal.SIGSTOP)
    assert _until(lambda: httpx.get(f"{server.admin_url}/health").status_code == 503, 20) < 5.5
    _until(lambda: _whole(server) and not set(victims) & _workers(server).keys(), 20)
    assert all(_ended(victim) for victim in victims)
    _until(lambda: httpx.get(f"{server.admin_url}/health").status_code == 200, 20)


def test_every_worker_is_replaced_and_nothing_lost(server: Any) -> None:
    _until(lambda: _whole(server), 20)
    before = _workers(server)
    asking = _asking(server)
    os.kill(server.pid, signal.SIGHUP)
    _until(lambda: _whole(server) and not before.keys() & _workers(server).keys(), 60)
    _until(lambda: all(map(_ended, before)), 60)
    time.sleep(0.2)
    report = asking.stop()
    assert not before.keys() & _workers(server).keys()
    assert report.lost == 0
    assert report.answered > 0


def test_what_a_client_loads_is_loaded_everywhere(server: Any) -> None:
    def asked() -> set[int]:
        """Each time over another connection, until every worker has been met."""
        return {
            httpx.post(f"{server.url}/v2/models/spare/infer", content=ROW, headers=KEY).status_code for _ in range(6)
        }

    assert asked() <= {404, 503}
    assert httpx.post(f"{server.url}/v2/repository/models/spare/load", headers=KEY, timeout=20).status_code == 200
    assert asked() == {200}
    os.kill(next(iter(_workers(server))), signal.SIGKILL)
    _until(lambda: _whole(server), 20)
    assert asked() == {200}
    assert httpx.post(f"{server.url}/v2/repository/models/spare/unload", headers=KEY, timeout=20).status_code == 200
    assert asked() <= {404, 503}
    assert httpx.post(f"{server.url}/v2/repository/models/none/load", headers=KEY).status_code in (400, 404)


def _next(operator: control.Control, *endpoints: spec.Endpoint, **more: Any) -> spec.Spec:
    current = operator.current()
    return msgspec.structs.replace(current, generation=current.generation + 1, endpoints=endpoints, **more)


@pytest.mark.promise("P-39")
def test_a_spec_is_in_force_in_all_workers_or_in_none(server: Any, operator: control.Control, packages: Any) -> None:
    _until(lambda: _whole(server), 20)
    asking = _asking(server)
    generation = operator.current().generation
    operator.apply(_next(operator, packages.echo("m", "2", row_ms=0.001)))
    assert {one["generation"] for one in _workers(server).values()} == {generation + 1}
    missing = packages.echo("m", "3", row_ms=0.002)
    missing = msgspec.structs.replace(missing, arms=(msgspec.structs.replace(missing.arms[0], path="/nowhere"),))
    with pytest.raises(errors.Unavailable):
        operator.apply(_next(operator, missing))
    report = asking.stop()
    assert {one["generation"] for one in _workers(server).values()} == {generation + 1}
    assert set(report.versions) == {"1", "2"}
    assert report.lost == 0


@pytest.mark.promise("P-17")
def test_a_revoked_key_opens_no_worker(server: Any, operator: control.Control) -> None:
    _until(lambda: _whole(server), 20)
    stopped = next(iter(_workers(server)))
    clients = [httpx.Client(base_url=server.url, headers=OTHER_KEY) for _ in range(8)]
    assert [client.get("/v2/models/m").status_code for client in clients] == [200] * 8
    # A worker that cannot be told is replaced, so that the key ends there too.
    os.kill(stopped, signal.SIGSTOP)
    started = time.monotonic()
    current = operator.current()
    left = msgspec.structs.replace(current, generation=current.generation + 1, keys=current.keys[:1])
    operator.apply(left)
    assert time.monotonic() - started < 3
    _until(lambda: _ended(stopped), 1)
    for client in clients:
        with contextlib.suppress(httpx.TransportError):
            assert client.get("/v2/models/m").status_code == 401
        client.close()
    assert httpx.get(f"{server.url}/v2/models/m", headers=KEY).status_code == 200
