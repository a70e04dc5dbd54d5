"""What `windlass bench` says of figures that are made up: tables, notes, the page, advice on settings."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass import errors
from windlass.cli import bench, bench_page, bench_results, bench_tune
from windlass.client import capacity, figures, histogram, plan, report
from windlass.types import spec

NAME = "<b>a&b"


def measured(
    rate: float = 100.0, doubt: bool = False, slo_s: float = 0.0, seconds: float = 20.0
) -> capacity.Measurement:
    """A server that carries 1,000 a second; its answers take 10 ms, or 100 ms near its capacity."""

    def run(planned: plan.Plan) -> report.Report:
        wanted = min(planned.rate or 1_000.0, 1_000.0)
        ok = int(wanted * planned.seconds)
        latency = histogram.Histogram({histogram.bucket(0.1 if planned.rate > 900 else 0.01): ok})
        return report.Report(
            seconds=(report.Second(report.Outcomes(ok=ok), latency),),
            duration_s=planned.seconds,
            busy=0.99 if doubt else 0.1,
        )

    subject = capacity.Subject(NAME, plan.Target("h", 1, (plan.Request(b""),)))
    method = capacity.Method(rate=rate, seconds=seconds, slo_s=slo_s)
    found = capacity.Measurement([subject], method, lambda _: None, run)
    found.measure()
    return found


def test_figures_are_shown_with_their_spread() -> None:
    found = measured(rate=0)
    lines = bench_results.rows(found, NAME)
    assert lines[0][:3] == ("c=1", "1,000", "1,000-1,000")
    assert lines[5][0] == "500/s (50%)"
    said = bench_results.notes(found, NAME, price=3.6)
    assert "capacity: 1,000 answers/s (1,000-1,000)" in said
    assert "a million answers cost 1 at 3.6 an hour for the machine" in said


def test_a_quantile_without_samples_says_how_much_longer_it_needs() -> None:
    found = measured(rate=100, seconds=3)
    assert bench_results.rows(found, NAME)[0][4] == "-"
    assert "100/s: no p99: fewer than 1,000 samples: 1 s more needed" in bench_results.notes(found, NAME, 0)
    assert bench_results.document(found, 0, {})["subjects"][0]["points"][0]["p99_ms"] is None


def test_figures_of_the_generator_are_not_shown() -> None:
    found = measured(rate=100, doubt=True)
    assert set(bench_results.rows(found, NAME)[0][1:-1]) == {"-"}
    assert any("busy 99%" in note for note in bench_results.notes(found, NAME, 0))
    point = bench_results.document(found, 0, {})["subjects"][0]["points"][0]
    assert (point["rate"], point["p50_ms"]) == (None, None)
    assert "99%" in point["doubt"]


def test_the_slo_and_its_price() -> None:
    found = measured(rate=0, slo_s=0.05)
    held = bench_results.document(found, 3.6, {})["subjects"][0]
    assert 850 < held["held"]["rate"] <= 900
    assert held["cost_per_million"] == pytest.approx(1e6 / held["held"]["rate"] / 1_000)
    assert any(note.startswith("p99 <= 50 ms: up to ") for note in bench_results.notes(found, NAME, 0))


def test_the_document_is_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(bench_results.document(measured(), 1.0, {"cores": 2})))


def test_the_page_is_well_formed_escapes_names_and_asks_nobody() -> None:
    text = bench_page.page(measured(rate=0), 1.0, {"cpu": "<x>"})
    root = ET.fromstring(text.removeprefix("<!doctype html>\n"))
    assert len(root.findall(".//svg")) == 3
    assert NAME in [heading.text for heading in root.findall(".//h2")]
    assert "://" not in text
    assert not [e for e in root.iter() if set(e.attrib) & {"src", "href"} or e.tag in ("script", "link", "img")]


def test_a_page_without_sure_figures_has_no_plot() -> None:
    assert "<svg" not in bench_page.page(measured(doubt=True), 0, {})


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(1e-3, 1e5)), min_size=1, max_size=9), st.booleans())
def test_plots_stay_inside_their_frame(points: list[tuple[float, float]], logarithmic: bool) -> None:
    spots = [bench_page.Spot(x, y, y * 0.9, y * 1.1) for x, y in sorted(points)]
    figure = ET.fromstring(bench_page.plot("t", "x", "y", [bench_page.Series("s", spots)], logarithmic))
    circles = figure.findall(".//circle")
    assert len(circles) == len(points)
    for circle in circles:
        assert 0 <= float(circle.attrib["cx"]) <= 640
        assert 0 <= float(circle.attrib["cy"]) <= 320


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("1.5s", 1.5), ("300us", 0.0003)])
def test_times(text: str, seconds: float) -> None:
    assert bench.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "20", "ms", "-1s", "0ms", "1 h", "nan"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(errors.UsageError):
        bench.duration(text)


def trial(settings: dict[str, float | str], *rounds: float) -> bench_tune.Trial:
    return bench_tune.Trial(settings, rounds, figures.ratio(rounds, (100, 110, 90)))


def test_a_setting_that_pays_is_told() -> None:
    trials = [trial({}, 100, 110, 90), trial({"threads": 2}, 200, 190, 210), trial({"max_batch": 8}, 150, 160, 140)]
    document, text = bench_tune.told(trials)
    assert document["best"] == {"threads": 2}
    assert "Set threads=2" in text


def test_what_is_within_the_spread_is_left() -> None:
    trials = [trial({}, 100, 110, 90), trial({"threads": 2}, 112, 109, 120), trial({"max_batch": 8}, 50, 60, 40)]
    document, text = bench_tune.told(trials)
    assert document["best"] is None
    assert "Leave it" in text


def test_candidates_change_one_thing_and_are_valid() -> None:
    endpoint = spec.Endpoint("m", (spec.Arm("sha256:0", "1"),), threads=1)
    tried = bench_tune.candidates(endpoint, 4)
    assert tried[0] == {}
    assert {"threads": 1} not in tried
    assert {"threads": 4} in tried
    assert {"workers": 2} in tried
    assert not [wanted for wanted in bench_tune.candidates(endpoint, 1) if "workers" in wanted]
    for wanted in tried:
        assert len(wanted) <= 1
        changed, workers = bench_tune.changed_by(endpoint, wanted)
        assert workers == wanted.get("workers", 0)
        assert all(getattr(changed, name) == value for name, value in wanted.items() if name != "workers")


def test_a_ratio_to_nothing_is_no_number() -> None:
    assert math.isnan(figures.ratio((1, 2, 3), (1, 0, 3)).value)


def test_the_price_of_nothing() -> None:
    assert capacity.cost_per_million(0, 1) == math.inf
