"""The small parts of a server: routes, responses, counters, metrics' arithmetic, the spec on its way to a process."""

from __future__ import annotations

import gzip
import stat
import zlib
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass import errors, plugins
from windlass.protocols import base
from windlass.serving import launch
from windlass.serving.door import routes
from windlass.serving.scheduling import measure
from windlass.serving.transport import responses
from windlass.types import spec, strict_json, tensor


def _protocol(*declared: tuple[str, str]) -> base.ServerProtocol:
    class Declared:
        name: ClassVar[str] = "declared"

        def routes(self) -> tuple[base.Route, ...]:
            ask = base.QueryRoute(lambda *_: base.Answer(b""))
            return tuple(base.Route(method, path, "model:read", ask) for method, path in declared)

        def encode_error(self, error: errors.WindlassError, request_id: str) -> base.Answer:
            return base.Answer(b"")

    return Declared()


def test_every_shipped_route_is_found_by_its_own_path() -> None:
    table = routes.RouteTable(plugins.load("protocols", name)() for name in plugins.catalog()["protocols"])
    for route in table.routes:
        path = route.path
        for name in ("model", "version", "label", "region"):
            path = path.replace(f"{{{name}}}", {"version": "3"}.get(name, f"some-{name}"))
        found = table.find(route.method.encode(), path.encode())
        assert found.route == route
        assert found.permission == route.permission


@pytest.mark.parametrize(
    "declared",
    [
        [("GET", "/a"), ("GET", "/a")],
        [("GET", "/a"), ("GET", "/a/")],
        [("GET", "/a/{b}"), ("POST", "/a/{c}")],
    ],
)
def test_routes_that_clash_are_refused(declared: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match="route"):
        routes.RouteTable([_protocol(*declared)])


def test_what_is_remembered_is_bounded() -> None:
    table = routes.RouteTable([_protocol(("GET", "/a/{model}"))])
    for i in range(10_000):
        table.find(b"GET", b"/a/m?%d" % i)
        with pytest.raises(errors.NotFound):
            table.find(b"GET", b"/b/%d" % i)
    table.find(b"GET", b"/a/m?" + b"x" * 10_000)
    assert len(table._remembered) <= 4_096
    assert all(len(target) <= 256 for _, target in table._remembered)


@given(st.text(max_size=40))
def test_any_path_is_found_or_refused(text: str) -> None:
    table = routes.RouteTable([_protocol(("GET", "/a/{model}"), ("GET", "/a/{model}/b"))])
    try:
        found = table.find(b"GET", ("/" + text).encode())
    except (errors.NotFound, errors.InvalidInput, errors.MethodNotAllowed):
        return
    assert found.model


# Responses


@settings(max_examples=50, deadline=None)
@given(body=st.binary(max_size=3_000), encoding=st.sampled_from((b"gzip", b"deflate")))
def test_what_is_compressed_comes_back(body: bytes, encoding: bytes) -> None:
    answer = responses.compress(base.Answer(body), encoding)
    assert dict(answer.headers)[b"content-encoding"] == encoding
    assert responses.decompress(answer.body, encoding, len(body)) == body
    if body:
        with pytest.raises(errors.PayloadTooLarge):
            responses.decompress(answer.body, encoding, len(body) - 1)
    for cut in {1, len(answer.body) // 2, len(answer.body) - 1}:
        with pytest.raises(errors.InvalidInput):
            responses.decompress(answer.body[:cut], encoding, 10_000)


@pytest.mark.promise("P-21")
def test_a_bomb_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    made: list[int] = []
    real = zlib.decompressobj

    class Watched:
        def __init__(self, wbits: int) -> None:
            self._machine = real(wbits)

        def decompress(self, data: bytes, limit: int) -> bytes:
            plain = self._machine.decompress(data, limit)
            made.append(len(plain))
            return plain

    monkeypatch.setattr(responses.zlib, "decompressobj", Watched)
    with pytest.raises(errors.PayloadTooLarge):
        responses.decompress(bomb, b"gzip", 1_000_000)
    assert sum(made) <= 1_000_001


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (b"gzip", b"gzip"),
        (b"deflate", b"deflate"),
        (b"br, gzip;q=0.5", b"gzip"),
        (b"gzip;q=0", None),
        (b"gzip; q=0.000, deflate;q=1", b"deflate"),
        (b"GZIP", b"gzip"),
        (b"br", None),
        (b"identity", None),
        (b"", None),
    ],
)
def test_the_encoding_is_one_that_was_asked_for(accepted: bytes, chosen: bytes | None) -> None:
    assert responses.acceptable_encoding(accepted) == chosen


# Warm-up


class _Model:
    """Takes a time per run and per row, on a clock of its own."""

    inputs = outputs = ()

    def __init__(self, clock: list[float], base_s: float, row_s: float) -> None:
        self._clock, self._base_s, self._row_s = clock, base_s, row_s
        self.largest = 0

    def run(self, inputs: tensor.Tensors, outputs: Any = None) -> tensor.Tensors:
        rows = len(inputs["x"])
        self.largest = max(self.largest, rows)
        self._clock[0] += self._base_s + rows * self._row_s
        return inputs

    def unload(self) -> None:
        pass


@pytest.mark.parametrize(
    ("base_s", "row_s", "best"),
    [(1e-3, 1e-6, 128), (1e-6, 1e-3, 1), (1e-4, 1e-5, 128), (1e-5, 1e-5, 16)],
)
def test_the_batch_is_where_more_rows_stop_paying(
    monkeypatch: pytest.MonkeyPatch, base_s: float, row_s: float, best: int
) -> None:
    np = pytest.importorskip("numpy")
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    model = _Model(clock, base_s, row_s)
    timing = measure.timing(model, {"x": np.zeros((2, 3))}, batched=True, max_rows=128)  # type: ignore[arg-type]
    assert timing.best_rows == best
    assert model.largest <= 128
    assert timing.seconds[1] == pytest.approx(base_s + row_s)


# A spec on its way to a process


def test_a_spec_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    wanted = spec.Spec(endpoints=(), key_pepper="00" * 32)
    path = launch.prepare(wanted, tmp_path / "home")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    written = strict_json.decode(path.read_bytes(), spec.Spec, what="spec")
    assert written == msgspec.structs.replace(wanted, control=written.control, verdicts=written.verdicts)
    assert Path(written.control).parent == path.parent
    assert launch.prepare(wanted, tmp_path / "home") != path


@pytest.mark.threat("V23")
def test_a_home_with_a_long_name_has_its_socket_elsewhere(tmp_path: Path) -> None:
    path = launch.prepare(spec.Spec(endpoints=()), tmp_path / ("h" * 120))
    control = Path(strict_json.decode(path.read_bytes(), spec.Spec, what="spec").control)
    assert len(str(control)) < 108
    assert stat.S_IMODE(control.parent.stat().st_mode) == 0o700
    control.parent.rmdir()


def test_the_command_is_a_list_of_arguments() -> None:
    line = launch.command(Path("/a b/$(x).json"), quiet=True, ready_fd=7)
    assert line[1:] == ["-m", "windlass.serving", "--spec", "/a b/$(x).json", "--quiet", "--ready-fd", "7"]
