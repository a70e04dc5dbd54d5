"""Two versions behind one endpoint while it is asked all the time: shares change live, and every request is accounted
for: by the caller, by the counters and by the exposure log.
"""

from __future__ import annotations

import collections
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from tritonclient import grpc

from windlass.client import load
from windlass.serving.routing import disagreements, exposures
from windlass.types import spec, strict_json, tensor_codec

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 30], "datatype": "FP32", "data": [0.5] * 30}]}).encode()


def _arms(packages: Any, share: float) -> tuple[spec.Arm, ...]:
    old, new = (packages.mlp("m", version, seed).arms[0] for version, seed in (("1", 0), ("2", 1)))
    return msgspec.structs.replace(old, share=100 - share), msgspec.structs.replace(new, share=share)


def _apply(server: Any, generation: int, endpoint: spec.Endpoint) -> float:
    """Put a spec in force over the control socket; the seconds that this took."""
    wanted = msgspec.structs.replace(server.wanted, generation=generation, endpoints=(endpoint,))
    with httpx.Client(transport=httpx.HTTPTransport(uds=server.control), base_url="http://127.0.0.1") as client:
        started = time.perf_counter()
        client.put("/spec", content=strict_json.canonical(wanted)).raise_for_status()
        return time.perf_counter() - started


def _outcomes(server: Any) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.admin_url}/outcomes").json()["endpoints"]["m"]
    return found


@pytest.mark.promise("P-37")
def test_shares_change_under_load_and_all_is_accounted_for(
    packages: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    endpoint = spec.Endpoint("m", _arms(packages, 10), threads=1, override=True)
    server = start_server(endpoint, state=str(tmp_path), workers=2)
    target = load.http(f"{server.url}/v2/models/m/infer", BODY)
    asking = load.Load(load.closed(target, connections=8)).start()
    took = []
    for generation, share in enumerate((50, 0, 100, 10), start=2):
        time.sleep(0.4)
        took.append(_apply(server, generation, msgspec.structs.replace(endpoint, arms=_arms(packages, share))))
    time.sleep(0.4)
    report = asking.stop()
    assert report.lost == 0
    # Some milliseconds on an idle machine; nothing is loaded, which would take far longer.
    assert min(took) < 0.5, f"changing shares took {took} s"
    with httpx.Client() as client:
        named = client.post(f"{server.url}/v2/models/m/infer", content=BODY, headers={"x-windlass-arm": "2"})
        asked = client.post(f"{server.url}/v2/models/m/versions/1/infer", content=BODY)
        wrong = client.post(f"{server.url}/v2/models/m/infer", content=BODY, headers={"x-windlass-arm": "3"})
    assert (named.json()["model_version"], asked.json()["model_version"]) == ("2", "1")
    assert wrong.status_code == 400
    assert "'1', '2'" in wrong.text
    found = _outcomes(server)
    server.server.stop()
    counted = {(one["arm"], one["generation"]): one["ok"] for one in found["outcomes"]}
    assert sum(counted.values()) == report.answered
    assert {(one["arm"], one["ok"]) for one in found["chosen"]} == {("1", 1), ("2", 1)}
    every = list(exposures.read(tmp_path, "m"))
    assert collections.Counter((e.arm, e.generation) for e in every if e.how == "draw") == counted
    assert {(e.how, e.arm, e.probability) for e in every if e.how != "draw"} == {
        ("override", "2", 1.0),
        ("version", "1", 1.0),
    }
    assert len({e.request for e in every}) == len(every)
    # An arm without a share is not drawn; otherwise the shares hold (five standard deviations).
    for generation, share in enumerate((10, 50, 0, 100, 10), start=1):
        total = sum(n for (_, g), n in counted.items() if g == generation)
        drawn = counted.get(("2", generation), 0)
        assert abs(drawn - total * share / 100) <= 5 * (total * share / 100 * (1 - share / 100)) ** 0.5


def test_a_shadow_finds_a_planted_difference(packages: Any, start_server: Callable[..., Any], tmp_path: Path) -> None:
    old, new = _arms(packages, 0)
    endpoint = spec.Endpoint("m", (msgspec.structs.replace(old, share=100),), threads=1, shadow=spec.Shadow(new))
    server = start_server(endpoint, state=str(tmp_path), workers=1)
    url = f"{server.url}/v2/models/m/infer"
    first: dict[str, Any] = httpx.post(url, content=BODY).json()
    assert first["model_version"] == "1"
    for _ in range(5):
        httpx.post(url, content=BODY)
    for _ in range(600):
        shadow = _outcomes(server)["shadow"]
        if shadow["compared"] == 6:
            break
        time.sleep(0.05)
    assert (shadow["mirrored"], shadow["compared"], shadow["disagreed"], shadow["failed"]) == (6, 6, 6, 0)
    # The same version in the shadow's place agrees.
    again = msgspec.structs.replace(old, id="again", share=100)
    _apply(server, 2, msgspec.structs.replace(endpoint, shadow=spec.Shadow(again)))
    for _ in range(5):
        httpx.post(url, content=BODY)
    for _ in range(600):
        shadow = _outcomes(server)["shadow"]
        if shadow["compared"] == 11:
            break
        time.sleep(0.05)
    assert (shadow["compared"], shadow["disagreed"]) == (11, 6)
    server.server.stop()
    kept = disagreements.read(tmp_path, "m")
    assert len({one.request for one in kept} - {""}) == 6
    assert tensor_codec.unpack(kept[0].answer)["y"].ravel().tolist() == pytest.approx(first["outputs"][0]["data"])
    inputs = tensor_codec.unpack(kept[0].inputs)["x"]
    assert np.array_equal(inputs, np.full((1, 30), 0.5, np.float32))


def test_a_sticky_key_has_one_arm_over_both_transports(
    packages: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    endpoint = spec.Endpoint("m", _arms(packages, 50), threads=1, sticky="header:X-User", salt="pepper")
    server = start_server(endpoint, state=str(tmp_path), workers=1)
    rows = grpc.InferInput("x", [1, 30], "FP32")
    rows.set_data_from_numpy(np.ones((1, 30), np.float32))
    with (
        grpc.InferenceServerClient(server.url.removeprefix("http://")) as client,
        httpx.Client(base_url=server.url) as plain,
    ):
        for user in range(20):
            by_grpc = client.infer("m", [rows], headers={"x-user": f"u{user}"}).get_response().model_version
            answer = plain.post("/v2/models/m/infer", content=BODY, headers={"X-User": f"u{user}"})
            assert answer.json()["model_version"] == by_grpc
    server.server.stop()
    every = list(exposures.read(tmp_path, "m"))
    assert (len(every), {e.how for e in every}) == (40, {"sticky"})
    assert len({e.key for e in every}) == 20
    assert {e.arm for e in every} == {"1", "2"}
    written = b"".join(path.read_bytes() for path in (tmp_path / "exposures" / "m").iterdir())
    assert b"u17" not in written


def _first_bad(server: Any, generation: int, expected: int) -> int:
    """Of the slow arm, once so many keys are told of: workers tell ten times a second."""
    for _ in range(300):
        told = _outcomes(server)["outcomes"]
        found: int = next((one["first_bad"] for one in told if (one["arm"], one["generation"]) == ("2", generation)), 0)
        if found >= expected:
            break
        time.sleep(0.05)
    return found


def test_a_keys_first_bad_event_counts_once_over_all_workers(
    packages: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    old, new = packages.echo("m").arms[0], packages.echo("m", "2", run_ms=20.0).arms[0]

    def endpoint(share: float, epoch: int) -> spec.Endpoint:
        arms = (msgspec.structs.replace(old, share=100 - share), msgspec.structs.replace(new, share=share))
        return spec.Endpoint("m", arms, threads=1, sticky="header:X-User", salt="s", slow_ms=15.0, epoch=epoch)

    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.5] * 4}]})
    server = start_server(endpoint(50, 1), state=str(tmp_path), workers=2)

    def ask() -> set[str]:
        """Each of the users asks two workers; who are with the slow arm."""
        found = set()
        with httpx.Client(base_url=server.url) as one, httpx.Client(base_url=server.url) as other:
            for user in range(8):
                for client in (one, other):
                    answer = client.post("/v2/models/m/infer", content=body, headers={"x-user": f"u{user}"})
                    if answer.json()["model_version"] == "2":
                        found.add(f"u{user}")
        return found

    first = ask()
    assert 0 < len(first) < 8
    assert _first_bad(server, 1, len(first)) == len(first)
    # Neither another spec nor a new worker makes another generation, or forgets a key.
    _apply(server, 2, endpoint(50, 1))
    with httpx.Client(transport=httpx.HTTPTransport(uds=server.control), base_url="http://127.0.0.1") as client:
        client.post("/restart", timeout=60).raise_for_status()
    assert ask() == first
    told = _outcomes(server)["outcomes"]
    assert {(one["arm"], one["generation"]) for one in told} == {("1", 1), ("2", 1)}
    slow = {one["arm"]: (one["slow"], one["ok"]) for one in told}
    assert slow["2"] == (4 * len(first), 4 * len(first))
    # Whoever comes to the slow arm later has its first bad event there.
    _apply(server, 3, endpoint(90, 1))
    more = ask()
    assert more > first
    assert _first_bad(server, 3, len(more - first)) == len(more - first)
    _apply(server, 4, endpoint(90, 2))
    assert ask() == more
    assert _first_bad(server, 4, len(more)) == len(more)
    assert (_first_bad(server, 1, 0), _first_bad(server, 3, 0)) == (len(first), len(more - first))
