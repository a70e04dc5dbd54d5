"""The log of a detached server: moved aside when it is long, while others append to it."""

from __future__ import annotations

from pathlib import Path

from windlass.serving import log_file


def test_a_long_log_is_moved_aside_under_who_appends_to_it(tmp_path: Path) -> None:
    path = tmp_path / "local.log"
    with path.open("ab", buffering=0) as appended:
        appended.write(b"one\n" * 30)
        assert not log_file.rotate(path, most_bytes=120)
        appended.write(b"two\n")
        assert log_file.rotate(path, most_bytes=120)
        appended.write(b"three\n")
    assert path.read_bytes() == b"three\n"
    assert (tmp_path / "local.log.1").read_bytes() == b"one\n" * 30 + b"two\n"
    # Only the one before is kept.
    assert log_file.rotate(path, most_bytes=1)
    assert (tmp_path / "local.log.1").read_bytes() == b"three\n"


def test_a_log_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    assert not log_file.rotate(tmp_path / "missing.log")
