"""`aoti` without compiling: when it does not apply, and what is kept of what the compiler wrote."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from windlass import errors  # noqa: E402
from windlass.optimization import form as forms  # noqa: E402
from windlass.optimization.techniques import aoti  # noqa: E402
from windlass.packaging import verdicts  # noqa: E402


def test_it_needs_a_live_network_and_a_compiler(
    trainable: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    materials = trainable.materials(tmp_path)
    live = forms.Form({}, network=trainable.network())
    monkeypatch.setattr(aoti.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert aoti.Aoti.refusal(live, materials) == ""
    assert "no live network" in aoti.Aoti.refusal(forms.Form({}), materials)
    monkeypatch.setattr(aoti.shutil, "which", lambda name: None)
    assert "there is no g++ here" in aoti.Aoti.refusal(live, materials)
    with pytest.raises(errors.Unsupported, match=r"no g\+\+ here"):
        aoti.Aoti.apply(live, {}, materials)


def test_sources_and_times_are_left_out_of_what_is_kept() -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("model/a.wrapper.cpp", "// /home/somebody/")
        archive.writestr(zipfile.ZipInfo("model/a.wrapper.so", (2026, 1, 2, 3, 4, 6)), b"\x7fELF")
        archive.writestr("model/version", "2")
    with zipfile.ZipFile(io.BytesIO(aoti._without_sources(written.getvalue()))) as kept:
        assert kept.namelist() == ["model/a.wrapper.so", "model/version"]
        assert kept.read("model/a.wrapper.so") == b"\x7fELF"
        assert {item.date_time for item in kept.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_what_another_machine_has_and_this_one_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "isa", lambda: "x86_64 avx avx2 fma")
    assert verdicts.lacking("x86_64 avx2 avx512f amx_tile") == ("avx512f", "amx_tile")
    assert verdicts.lacking("aarch64 asimd") == ("aarch64", "asimd")
    assert verdicts.lacking("x86_64 avx") == ()
    assert verdicts.lacking("") == ()
