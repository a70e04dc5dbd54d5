"""optimization/report: one page that asks nobody, whatever the names in it are, and that leaves nothing out."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.optimization import findings, form
from windlass.optimization.report import page, pictures, words

HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x1b[31m"


def timing(speedup: float, rows: int = 1) -> findings.Timing:
    return findings.Timing(rows, 1, 8.0, 8.0 / speedup, speedup, speedup * 0.97, speedup * 1.03, 30)


def judged(drop: float, metric: str = "accuracy") -> findings.Judged:
    def lost(name: str, rows: int) -> findings.Drop:
        return findings.Drop(name, rows, 0.97, 0.97 - drop, drop, drop - 0.002, drop + 0.002)

    likeness = findings.Likeness(2000, 0.991, 31.4, 0.9987, 0.04)
    return findings.Judged(True, lost(metric, 2000), likeness, (lost("font = mono", 210),), lost("noise", 500))


def candidate(number: int, verdict: Any, speedup: float, drop: float, **more: Any) -> findings.Candidate:
    step = form.Step("quantize_static", {"method": "minmax", "reduce_range": bool(number % 2)})
    return findings.Candidate(
        digest=f"sha256:{number:064d}",
        name="quantize_static",
        steps=(step,),
        verdict=verdict,
        why=more.pop("why", f"reason {number}"),
        timings=(timing(speedup), timing(speedup * 0.9, 8)),
        footprint=findings.Footprint(25_600_000 // number, 20_000_000, 80_000_000),
        judged=judged(drop),
        **more,
    )


def report(**changes: Any) -> findings.Report:
    """A study with each kind of finding."""
    baseline = findings.Candidate(
        digest="sha256:" + "b" * 64,
        name="original",
        steps=(),
        verdict="kept",
        why="what it is compared with",
        timings=(timing(1.0), timing(1.0, 8)),
        footprint=findings.Footprint(102_000_000, 95_000_000, 300_000_000),
        judged=judged(0.0),
    )
    left = (form.Left("/conv1", "Conv", "too sensitive"),)
    chosen = candidate(4, "chosen", 3.41, 0.002, confirmed=judged(0.003), left=left, notes=("one note",))
    others = (
        candidate(1, "kept", 1.2, 0.0),
        candidate(2, "rejected", 3.5, 0.012),
        candidate(3, "rejected", 2.9, 0.6),
        msgspec.structs.replace(candidate(5, "failed", 1.0, 0.0), timings=(), footprint=None, judged=None),
    )
    made = findings.Report(
        parent="sha256:" + "p".replace("p", "a") * 64,
        reference="fraud@3",
        verdict="optimized",
        sentence="quantize_static is 3.41 times as fast; a quarter of the size.",
        chosen=chosen.digest,
        nearest="",
        asked={"max_drop": 0.005, "goal": "latency", "max_size": None},
        baseline=baseline,
        candidates=(*others, chosen),
        pareto=(others[0].digest, chosen.digest),
        profile=findings.Profile(
            runtime="onnx",
            rows=1,
            threads=1,
            us=8000.0,
            outside_us=300.0,
            operators=(findings.Operator("Conv", 53, 6200.0, 0.78), findings.Operator("Relu", 49, 1500.0, 0.19)),
            slowest=(findings.Node("/layer1/conv", "Conv", 420.0),),
            bounds=(findings.Bound("quantize_static", 0.78, 4.0, 2.4),),
            dispatch_bound=False,
            worth=True,
            words="Conv takes most of it.",
        ),
        layers=(findings.Layer("/conv1", "Conv", 18.3, 120.0, True), findings.Layer("/fc", "Gemm", 41.0, 20.0)),
        parity=(
            findings.Parity("original", "torch", "passed", 2.5e-7, "fine"),
            findings.Parity("chosen", "torch", "skipped", None, "no network"),
            findings.Parity("chosen", "onnxruntime, none", "failed", 0.3, "far off"),
        ),
        settings=(findings.Setting(1, 1, 2.35, 425.0), findings.Setting(2, 8, 9.0, 889.0)),
        cost={"before": 0.42, "after": 0.12, "price_per_core_hour": 0.05},
        recipe='parent = "sha256:..."\n[[steps]]\ntechnique = "quantize_static"\n',
        machine={"cpu": "some processor", "versions": {"onnxruntime": "1.31"}, "isa": ["avx2"]},
        data={"digests": {"final": "sha256:" + "d" * 64}, "labelled": True, "rows": {"search": 2000}},
        seconds=61.5,
        notes=("a limit of the study",),
    )
    return msgspec.structs.replace(made, **changes)


def parsed(found: findings.Report) -> tuple[str, ET.Element]:
    text = page.page(found)
    return text, ET.fromstring(text.removeprefix("<!doctype html>\n"))


def harmless(text: str, root: ET.Element) -> None:
    assert "://" not in text
    assert not [e for e in root.iter() if e.tag in ("script", "link", "img", "iframe", "object", "a", "form", "base")]
    assert not [name for e in root.iter() for name in e.attrib if name.startswith("on") or name in ("src", "href")]
    assert len(root.findall(".//title")) >= 1
    assert len(root.findall("./head/style")) == 1


def test_the_page_begins_with_the_verdict_and_leaves_nothing_out() -> None:
    found = report()
    text, root = parsed(found)
    harmless(text, root)
    assert [each.text for each in root.iter("h1")] == [found.sentence]
    rows = [["".join(cell.itertext()) for cell in row.iter("td")] for row in root.iter("tr")]
    told = {row[3]: row for row in rows if len(row) == 10}
    assert [row[2] for row in told.values()] == ["", "chosen", "kept", "rejected", "rejected", "failed"]
    for one in found.candidates:
        assert one.why in told
    assert told["reason 4"][4:6] == ["3.41x (3.31 to 3.51), 2.35 ms", "3.07x (2.98 to 3.16), 2.61 ms"]
    assert told["what it is compared with"][4:6] == ["8 ms", "8 ms"]
    assert told["reason 4"][6:9] == ["6.4 MB (-93.7 %)", "80 MB", "0.003 (0.001 to 0.005)"]
    assert told["reason 5"][4:10] == ["", "", "", "", "", ""]
    for wanted in (
        "font = mono",
        "adversarial rows",
        "a limit of the study",
        "one note",
        "too sensitive",
        found.recipe,
    ):
        assert wanted.strip().splitlines()[0] in "".join(root.itertext())
    assert [
        (e.text or "").split()[0] for e in root.iter("td") if e.get("class") in ("passed", "failed", "skipped")
    ] == [
        "passed",
        "skipped",
        "failed",
    ]


def test_every_picture_is_told_in_words() -> None:
    _, root = parsed(report())
    drawn = root.findall(".//svg")
    assert len(drawn) == 3
    for each in drawn:
        assert each.attrib["role"] == "img"
        assert len(each.attrib["aria-label"]) > 40
    assert "3.41x (3.31 to 3.51)" in drawn[0].attrib["aria-label"]


def hostile(value: Any) -> Any:
    """The same finding with a hostile text in the place of every text that others may have had words in."""
    if isinstance(value, dict):
        return {HOSTILE + key: hostile(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(hostile(each) for each in value)
    if isinstance(value, msgspec.Struct):
        kept = ("verdict", "digest", "chosen", "form", "cost", "steps", "pareto")
        named = {name: getattr(value, name) for name in value.__struct_fields__}
        return type(value)(**{name: one if name in kept else hostile(one) for name, one in named.items()})
    return HOSTILE if isinstance(value, str) else value


def test_hostile_names_are_text() -> None:
    found = msgspec.structs.replace(hostile(report()), asked={"max_drop": 0.01, HOSTILE: HOSTILE})
    steps = (form.Step(HOSTILE, {HOSTILE: [HOSTILE]}),)
    chosen = msgspec.structs.replace(found.candidates[-1], steps=steps)
    text, root = parsed(msgspec.structs.replace(found, candidates=(*found.candidates[:-1], chosen)))
    harmless(text, root)
    assert "\x1b" not in text
    assert "alert(1)" in "".join(root.itertext())


@pytest.mark.parametrize("verdict", ["kept", "missed"])
def test_a_version_that_is_left_alone_has_a_page_too(verdict: Any) -> None:
    found = report(verdict=verdict, chosen="", sentence="Keep it as it is.", nearest="half: 2 ms too slow", recipe="")
    text, root = parsed(found)
    harmless(text, root)
    assert "Nearest is half: 2 ms too slow." in "".join(root.itertext())
    assert not root.findall(".//dl")


def test_nothing_but_a_sentence_is_a_page() -> None:
    bare = msgspec.structs.replace(report().baseline, timings=(), footprint=None, judged=None)
    text, root = parsed(
        report(
            verdict="kept", chosen="", baseline=bare, candidates=(), pareto=(), profile=None, layers=(), parity=(),
            settings=(), cost={}, recipe="", machine={}, data={}, asked={}, notes=(),
        )
    )  # fmt: skip
    harmless(text, root)
    assert "No form was tried." in "".join(root.itertext())
    assert not root.findall(".//svg")


numbers = st.floats(-1e3, 1e3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 100), numbers, st.floats(0, 10)), min_size=1, max_size=8),
    st.one_of(st.none(), st.floats(0, 1)),
)
def test_every_candidate_is_inside_the_plot(drawn: list[tuple[float, float, float]], most: float | None) -> None:
    made = []
    for number, (speedup, drop, wide) in enumerate(drawn, 1):
        bounds = findings.Drop("m", 9, 1.0, 1.0 - drop, drop, drop - wide, math.inf if wide > 9 else drop + wide)
        answers = msgspec.structs.replace(judged(0.0), drop=bounds)
        made.append(msgspec.structs.replace(candidate(number, "rejected", speedup, 0.0), judged=answers))
    figure = ET.fromstring(pictures.pareto(report(candidates=tuple(made), chosen="", asked={"max_drop": most})))
    bubbles = [each for each in figure.iter("circle") if each.find("title") is not None]
    assert len(bubbles) == len(drawn)
    for each in figure.iter():
        for name, high in (("cx", 760), ("x1", 760), ("x2", 760), ("cy", 420), ("y1", 420), ("y2", 420)):
            if name in each.attrib:
                assert 0 <= float(each.attrib[name]) <= high


def test_the_budget_is_drawn_where_there_is_one() -> None:
    assert "the budget: 0.005 lost" in pictures.pareto(report())
    assert "the budget" not in pictures.pareto(report(asked={"max_drop": None}))
    assert "the budget" not in pictures.pareto(report(asked={}))


@pytest.mark.parametrize(
    ("count", "said"), [(999, "999 B"), (1_500, "1.5 kB"), (25_600_000, "25.6 MB"), (3_000_000_000, "3 GB")]
)
def test_sizes(count: int, said: str) -> None:
    assert words.size(count) == said


def test_a_bound_that_is_none_is_said() -> None:
    drop = findings.Drop("accuracy", 20, 0.9, 0.9, 0.0, -1.7976931348623157e308, math.inf)
    assert words.drop(drop) == "0 (unbounded to unbounded)"


def test_facts_are_flat_and_hold_no_empty_ones() -> None:
    given_ = {"a_b": {"c": [1, 2.5], "d": None}, "e": "", "f": True, "g": 0}
    assert words.facts(given_) == [("a b: c", "1, 2.5"), ("f", "yes"), ("g", "0")]


def test_the_report_is_json_and_comes_back() -> None:
    found = report()
    assert msgspec.json.decode(msgspec.json.encode(found), type=findings.Report) == found
