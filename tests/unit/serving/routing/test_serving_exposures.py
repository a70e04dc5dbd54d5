"""The exposure log: what is written is read again, a torn line is passed over, and nothing grows without bound."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from windlass.serving.metrics import counters
from windlass.serving.routing import exposures


class Clock:
    """Seconds are told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


@pytest.fixture
def series() -> counters.Counters:
    """Counters of their own."""
    return counters.Counters()


@pytest.fixture
def kept(tmp_path: Path, clock: Clock, series: counters.Counters) -> Iterator[exposures.Exposures]:
    """A log in a folder of its own; written when it is flushed."""
    found = exposures.Exposures(str(tmp_path), series, clock)
    yield found
    found.close()


def journal(kept: exposures.Exposures) -> Callable[..., None]:
    found = kept.journal("m")
    assert found is not None
    return found


def note(to: Callable[..., None], request: str) -> None:
    to(request, "a", 0.5, 3, "sticky", "ab12", "key1")


def counts(series: counters.Counters) -> dict[str, int]:
    return {key[2]: slot[0] for key, slot in series.single["counter"].items() if key[0] == "windlass_exposures_total"}


def test_what_is_noted_is_read_again(kept: exposures.Exposures, clock: Clock, tmp_path: Path) -> None:
    to = journal(kept)
    note(to, "r1")
    clock.now += 10
    # A caller's own request id may hold anything.
    note(to, 'r2"\n{')
    assert list(exposures.read(tmp_path, "m")) == []
    kept.flush()
    first, second = exposures.read(tmp_path, "m")
    assert first == exposures.Exposure(1_000.0, "r1", "m", "a", 0.5, 3, "sticky", "ab12", "key1")
    assert second.request == 'r2"\n{'
    assert [one.request for one in exposures.read(tmp_path, "m", since=1_005.0)] == ['r2"\n{']
    (path,) = (tmp_path / "exposures" / "m").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_a_crash_cut_off_is_passed_over(
    kept: exposures.Exposures, tmp_path: Path, clock: Clock, series: counters.Counters
) -> None:
    note(journal(kept), "r1")
    kept.flush()
    (path,) = (tmp_path / "exposures" / "m").iterdir()
    with path.open("ab") as file:
        file.write(path.read_bytes()[:-20])
    clock.now += 1
    after = exposures.Exposures(str(tmp_path), series, clock)
    note(journal(after), "r3")
    after.close()
    assert [one.request for one in exposures.read(tmp_path, "m")] == ["r1", "r3"]


def test_the_oldest_segments_go_first(
    kept: exposures.Exposures, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposures, "SEGMENT_BYTES", 400)
    monkeypatch.setattr(exposures, "RETAINED_BYTES", 1_200)
    to = journal(kept)
    for number in range(20):
        clock.now += 1
        note(to, f"r{number}")
        kept.flush()
    sizes = [path.stat().st_size for path in (tmp_path / "exposures" / "m").iterdir()]
    assert all(size <= 400 for size in sizes)
    assert sum(sizes) <= 1_200
    left = [one.request for one in exposures.read(tmp_path, "m")]
    assert left == [f"r{number}" for number in range(20 - len(left), 20)]
    assert len(left) >= 4


def test_what_the_disk_cannot_take_is_counted(
    kept: exposures.Exposures, tmp_path: Path, series: counters.Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposures, "BUFFER_LINES", 2)
    to = journal(kept)
    for number in range(3):
        note(to, f"r{number}")
    assert counts(series) == {"noted": 3, "dropped": 1, "lost": 0}
    (tmp_path / "exposures").write_text("a file in the way")
    kept.flush()
    assert counts(series) == {"noted": 3, "dropped": 1, "lost": 2}
    (tmp_path / "exposures").unlink()
    note(to, "r4")
    kept.flush()
    assert [one.request for one in exposures.read(tmp_path, "m")] == ["r4"]


def test_a_disk_that_fills_tears_no_line_that_comes_later(
    kept: exposures.Exposures, tmp_path: Path, series: counters.Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, write = journal(kept), os.write
    note(to, "r1")
    kept.flush()
    for number in (2, 3):
        parts = iter((10, 0))

        def full(descriptor: int, data: memoryview, parts: Iterator[int] = parts) -> int:
            count = next(parts)
            if not count:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data[:count])

        monkeypatch.setattr(os, "write", full)
        note(to, f"r{number}")
        kept.flush()
    monkeypatch.setattr(os, "write", write)
    note(to, "r4")
    kept.flush()
    assert [one.request for one in exposures.read(tmp_path, "m")] == ["r1", "r4"]
    assert counts(series) == {"noted": 4, "dropped": 0, "lost": 2}


def test_without_a_folder_nothing_is_kept(series: counters.Counters) -> None:
    assert exposures.Exposures("", series).journal("m") is None
