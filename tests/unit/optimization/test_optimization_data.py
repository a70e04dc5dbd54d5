"""Rows in three parts: none shared, copies together, every label in each, and what does not fit named."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from windlass import errors
from windlass.optimization import data, lesson
from windlass.packaging import dataset, session

ROWS = 900


@pytest.fixture(scope="module")
def parent(layered: ModuleType) -> session.Session:
    opened: session.Session = layered.Net().opened(max_batch=50)
    return opened


def table(**columns: Any) -> dataset.Dataset:
    return dataset.Dataset(columns, "sha256:table")


def inputs(rows: data.Rows) -> np.ndarray:
    return np.concatenate([batch["x"] for batch in rows.batches])


def test_parts_share_no_row_and_hold_every_label(layered: ModuleType, parent: session.Session) -> None:
    x, y = layered.rows(ROWS), np.arange(ROWS) % 90 // 10
    found = data.split(parent, table(x=x, y=y, group=y % 2), "y", slices=("group",))
    parts = (found.calibration, found.search, found.final)
    assert [part.rows for part in parts] == [180, 360, 360]
    assert np.unique(np.concatenate([inputs(part) for part in parts]), axis=0).shape == x.shape
    for part in parts:
        assert part.truth is not None
        assert np.ptp(np.bincount(part.truth)) <= 2
        assert all(len(batch["x"]) <= 50 for batch in part.batches)
        # Labels stay with their rows.
        at = [int(np.flatnonzero((x == row).all(axis=1))[0]) for row in inputs(part)[:20]]
        assert part.truth[:20].tolist() == y[at].tolist()
    assert found.final.columns["group"].tolist() == (found.final.truth % 2).tolist()  # type: ignore[operator]
    assert len({part.digest for part in parts}) == 3


def test_the_same_seed_gives_the_same_parts(layered: ModuleType, parent: session.Session) -> None:
    given = table(x=layered.rows(300))
    one, again, other = (data.split(parent, given, seed=seed) for seed in (1, 1, 2))
    assert one.final.digest == again.final.digest != other.final.digest
    assert one.final.truth is None


def test_copies_of_a_row_stay_in_one_part(layered: ModuleType, parent: session.Session) -> None:
    x = np.repeat(layered.rows(200), 3, axis=0)
    found = data.split(parent, table(x=x, y=np.arange(600) % 2), "y")
    seen = [{row.tobytes() for row in inputs(part)} for part in (found.calibration, found.search, found.final)]
    assert not seen[0] & seen[1]
    assert not seen[1] & seen[2]
    assert not seen[0] & seen[2]
    assert "400 rows" in found.notes[0]


@hypothesis.settings(max_examples=50)
@hypothesis.given(st.lists(st.integers(0, 60), min_size=1, max_size=300), st.integers(0, 5), st.integers(0, 1_000_000))
def test_any_rows_are_dealt_once_and_whole(groups: list[int], strata: int, seed: int) -> None:
    alike = np.unique(groups, return_inverse=True)[1]
    parts = data._dealt(alike, np.arange(len(alike)) % (strata + 1), seed)
    rows = np.concatenate(parts)
    assert len(set(rows.tolist())) == len(rows)
    assert len(rows) == len(alike) or len(parts[0]) == data.MOST_CALIBRATION
    belongs = [set(alike[part].tolist()) for part in parts]
    assert not belongs[0] & belongs[1]
    assert not belongs[1] & belongs[2]
    assert not belongs[0] & belongs[2]


def test_rows_are_alike_where_every_value_is() -> None:
    numbers = np.array([[1.0, np.nan], [1.0, np.nan], [1.0, 2.0], [1.0, np.nan]])
    objects = np.array(["a", "a", "a", None], object)
    assert data._alike([numbers]).tolist() == [0, 0, 1, 0] or data._alike([numbers]).tolist() == [1, 1, 0, 1]
    both = data._alike([numbers, objects])
    assert both[0] == both[1]
    assert len(set(both.tolist())) == 3
    missing = np.array([float("nan"), float("nan"), 1.0], object)
    assert data._alike([missing]).tolist()[0] == data._alike([missing]).tolist()[1]


def test_many_numbers_are_dealt_by_tenths(layered: ModuleType, parent: session.Session) -> None:
    y = np.arange(ROWS) * 1.5
    found = data.split(parent, table(x=layered.rows(ROWS), y=y), "y")
    for part in (found.search, found.final):
        assert part.truth is not None
        assert np.histogram(part.truth, bins=10)[0].min() >= 30


def test_too_few_rows_are_refused_with_a_number(layered: ModuleType, parent: session.Session) -> None:
    with pytest.raises(errors.UsageError, match=r"60 rows \(60 of them different\).*75 different rows"):
        data.split(parent, table(x=layered.rows(60)))
    with pytest.raises(errors.UsageError, match="2 of them different"):
        data.split(parent, table(x=np.repeat(layered.rows(2), 100, axis=0)))
    assert data.split(parent, table(x=layered.rows(75))).final.rows == 30


def test_what_does_not_fit_is_named(layered: ModuleType, parent: session.Session) -> None:
    x = layered.rows(200)
    with pytest.raises(errors.UsageError, match="no column 'label'"):
        data.split(parent, table(x=x, y=np.zeros(200)), "label")
    with pytest.raises(errors.UsageError, match="2 columns are not what the model takes"):
        data.split(parent, table(a=x[:, 0], b=x[:, 1]))
    with pytest.raises(errors.UsageError, match="'x' has shape"):
        data.split(parent, table(x=x[:, :5]))
    cells = {f"c{at}": np.array([str(one) for one in x[:, at]], object) for at in range(layered.WIDTH)}
    assert np.array_equal(inputs(data.rows(parent, table(**cells))), x)
    cells["c3"][150] = "many"
    with pytest.raises(errors.UsageError, match="'many' in column 'c3', row 150, is no number"):
        data.split(parent, table(**cells))


def test_all_rows_come_in_their_order(layered: ModuleType, parent: session.Session) -> None:
    x = layered.rows(130)
    found = data.rows(parent, table(x=x, y=np.arange(130)), "y")
    assert np.array_equal(inputs(found), x)
    assert found.truth is not None
    assert found.truth.tolist() == list(range(130))


def test_without_data_rows_are_drawn_around_the_golden_ones(parent: session.Session) -> None:
    found = data.synthetic(parent)
    assert "No data was given" in found.notes[0]
    for part in (found.calibration, found.search, found.final):
        assert part.synthetic
        assert part.truth is None
        for batch in part.batches:
            parent.contract.check(batch)
    assert len({part.digest for part in (found.calibration, found.search, found.final)}) == 3
    assert data.synthetic(parent).final.digest == found.final.digest


def test_rows_that_are_judged_on_are_not_learned_from(layered: ModuleType, parent: session.Session) -> None:
    x = layered.rows(ROWS)
    found = data.split(parent, table(x=x[:300], y=np.arange(300) % 2), "y")
    # Another format, order and label column: the rows are the same as the model takes them.
    side = {f"c{at}": x[200:][::-1, at].astype(np.float64) for at in range(x.shape[1])}
    train = data.rows(parent, table(**side, z=np.zeros(700)), "z")
    assert data.unseen(train, found).tolist() == list(range(600))
    learned, notes = lesson.of(parent, table(**side, z=np.zeros(700)), "z", (), judged=found, seed=0)
    assert len(learned.inputs["x"]) + len(learned.holdout_inputs["x"]) == 600
    assert notes == ("100 rows to train on are judged on as well: they were not learned from.",)
    with pytest.raises(errors.UsageError, match="those to judge on"):
        lesson.of(parent, table(x=x[:300], y=np.arange(300) % 2), "y", (), judged=found, seed=0)
