"""What is behind a control plane can be asked as what is here: the same methods, parameters and values."""

from __future__ import annotations

import inspect
from typing import Any

import httpx
import msgspec
import pytest

from windlass import errors
from windlass.cli import journal
from windlass.client import plane
from windlass.desired import deployments as desired
from windlass.packaging import archive
from windlass.records import keys as key_rows
from windlass.registry import registry as registries
from windlass.remote import audit, deployments, keys, registry
from windlass.storage import blobs
from windlass.types import evidence, manifest, refs, signature

PAIRS: list[tuple[type, type]] = [
    (registries.Registry, registry.Registry),
    (desired.Deployments, deployments.Deployments),
    (key_rows.Keys, keys.Keys),
    (journal.Journal, audit.Audit),
]


def methods(kind: type) -> dict[str, inspect.Signature]:
    found = inspect.getmembers(kind, inspect.isfunction)
    return {name: inspect.signature(method) for name, method in found if not name.startswith("_")}


@pytest.mark.parametrize(("here", "there"), PAIRS, ids=lambda kind: kind.__module__)
def test_what_is_there_takes_what_is_taken_here(here: type, there: type) -> None:
    local, remote = methods(here), methods(there)
    shared = set(local) & set(remote)
    assert len(shared) >= 3
    for name in shared:
        told = {p.name: (p.kind, p.default) for p in local[name].parameters.values()}
        taken = {p.name: (p.kind, p.default) for p in remote[name].parameters.values()}
        assert {key: taken.get(key) for key in told} == told, f"{there.__name__}.{name}"
        extra = [taken[key] for key in taken if key not in told]
        assert all(default is not inspect.Parameter.empty for _, default in extra), f"{there.__name__}.{name}"


class Plane:
    """A plane in memory: blobs, one version, one job that takes two looks."""

    def __init__(self, *, verdict: str = "DONE") -> None:
        self.blobs: dict[str, bytes] = {}
        self.registered: list[Any] = []
        self.told: list[Any] = []
        self.verdict = verdict
        self.looks = 0
        self.puts = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path.removeprefix(plane.PREFIX), request.read()
        if path.startswith("/blobs/"):
            return self._blob(request.method, path.rpartition("/")[2], body)
        if path.startswith("/jobs/"):
            self.looks += 1
            state = "RUNNING" if self.looks < 3 else self.verdict
            return self._answer(_job(state))
        if path.endswith("/users"):
            version = _shown(self.registered[0]["digest"])["version"]
            return self._answer({"digest": version["digest"], "versions": [version], "aliases": [], "deployments": []})
        if path.endswith("/versions/1/evidence"):
            self.told.append(msgspec.json.decode(body))
            return self._answer({})
        if path.endswith("/show"):
            return self._answer(_shown(self.registered[0]["digest"]))
        self.registered.append(msgspec.json.decode(body))
        digest = self.registered[0]["digest"]
        return self._answer({"name": "digits", "version": 1, "digest": digest, "created": True, "job": 5})

    def _blob(self, method: str, name: str, body: bytes) -> httpx.Response:
        if method == "PUT":
            self.puts += 1
            self.blobs[name] = body
            return httpx.Response(201, content=b"null")
        return httpx.Response(200, content=self.blobs[name]) if name in self.blobs else httpx.Response(404)

    def _answer(self, value: Any) -> httpx.Response:
        return httpx.Response(200, content=msgspec.json.encode(value))

    def registry(self) -> registry.Registry:
        talk = plane.Plane("http://localhost:1", transport=httpx.MockTransport(self), sleep=lambda _: None)
        return registry.Registry(talk, clock=lambda: 0.0, sleep=lambda _: None)


def _job(state: str) -> dict[str, Any]:
    result = {"error": "its golden outputs differ"} if state == "FAILED" else {}
    fields = {"id": 5, "kind": "verify", "arguments": {}, "state": state, "result": result, "attempts": 1}
    return {**fields, "holder": "", "expires_at": 0.0, "actor": "a", "created_at": 0.0, "ended_at": None}


def _shown(digest: str) -> dict[str, Any]:
    version = {"name": "digits", "version": 1, "digest": digest, "status": "READY", "size": 1, "parent": ""}
    version |= {"actor": "a", "description": "", "created_at": 0.0, "generation": 1, "reason": "", "id": 1}
    family = {"ancestors": [], "children": []}
    return {"version": version, "aliases": [], "tags": {}, "manifest": None, "family": family, "evidence": []}


def package() -> archive.Package:
    data: dict[str, bytes] = {}

    def blob(value: bytes) -> manifest.BlobRef:
        ref = manifest.BlobRef(blobs.digest_of(value), len(value))
        data[ref.digest] = value
        return ref

    value = manifest.Manifest(
        name="digits",
        kind="model",
        signature=signature.Signature(
            inputs=(signature.TensorSpec("x", "FP32", ("batch", 4)),),
            outputs=(signature.TensorSpec("y", "FP32", ("batch", 2)),),
        ),
        model=manifest.ModelSpec(runtime="echo", blobs={"model.bin": blob(b"weights")}),
        golden=manifest.Golden(inputs=blob(b"golden in"), outputs=blob(b"golden out"), rtol=1e-3, atol=1e-5),
        lineage=manifest.Lineage(framework="test 1.0"),
    )
    return archive.in_memory(value, data)


def test_a_push_uploads_what_is_missing_and_waits_for_the_planes_own_check() -> None:
    there, made = Plane(), package()
    said: list[str] = []
    vouched = (
        evidence.Evidence(made.digest, "parity", "passed"),
        evidence.Evidence(made.digest, "signature", "passed", {"envelope": "signed"}),
    )
    pushed = there.registry().push(made, name="digits", actor="me", evidence=vouched, told=said.append)
    assert (pushed.name, pushed.version, pushed.status, pushed.created) == ("digits", 1, "READY", True)
    assert there.looks == 3
    assert set(there.blobs) == {digest.removeprefix("sha256:") for digest in [made.digest, *made.manifest.blobs()]}
    # Nobody far away is believed what he says that he measured.
    assert there.registered == [{"digest": made.digest, "description": "", "tags": {}, "signature": "signed"}]
    assert len(said) == 5
    puts = there.puts
    there.registry().push(made, name="digits", actor="me")
    assert there.puts == puts


def test_the_report_of_a_study_goes_with_the_version_that_came_of_it() -> None:
    there, made = Plane(), package()
    report = evidence.Evidence(made.digest, "optimization", "passed", {"report": {"verdict": "optimized"}})
    there.registry().push(made, name="digits", actor="me", evidence=(report,))
    expected = {"kind": "optimization", "verdict": "passed", "statistics": report.statistics, "window": ""}
    assert there.told == [expected]


def test_a_push_that_fails_the_planes_check_is_refused_with_its_words() -> None:
    with pytest.raises(errors.GateRefused, match="its golden outputs differ"):
        Plane(verdict="FAILED").registry().push(package(), name="digits", actor="me")


def test_a_package_comes_back_whole() -> None:
    there, made = Plane(), package()
    there.registry().push(made, name="digits", actor="me")
    assert dict(there.registry().package(made.digest).entries()) == dict(made.entries())


def test_other_bytes_than_asked_for_are_refused() -> None:
    there, made = Plane(), package()
    there.registry().push(made, name="digits", actor="me")
    for name in there.blobs:
        there.blobs[name] += b"!"
    with pytest.raises(errors.CorruptPackage):
        there.registry().package(made.digest)


def test_a_path_means_nothing_to_another_machine() -> None:
    with pytest.raises(errors.UsageError):
        Plane().registry().resolve(refs.parse("./here.windlass"))


@pytest.mark.parametrize("text", ["a", "a@3", "a:staging", "a@sha256:" + "0" * 64])
def test_a_reference_is_sent_as_it_was_written(text: str) -> None:
    assert registry.text_of(refs.parse(text)) == text
