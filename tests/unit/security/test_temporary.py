"""Temporary folders: gone afterwards, whatever happens meanwhile."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from windlass.security import temporary


def test_it_is_private_and_gone_afterwards() -> None:
    with temporary.folder("t-") as path:
        (path / "sub").mkdir()
        (path / "sub" / "file").write_bytes(b"x")
        assert path.stat().st_mode & 0o777 == 0o700
    assert not path.exists()


def test_it_is_gone_after_an_error() -> None:
    with pytest.raises(ValueError, match="mine"), temporary.folder("t-") as path:
        raise ValueError("mine")
    assert not path.exists()


def test_an_interrupt_while_it_is_removed_waits_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    remove = shutil.rmtree

    def interrupted(path: Path, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), temporary.folder("t-") as path:
        (path / "file").write_bytes(b"x")
    assert not path.exists()
    assert signal.getsignal(signal.SIGINT) is before
