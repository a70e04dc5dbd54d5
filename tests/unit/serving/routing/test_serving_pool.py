"""The pool: what is served after specs that succeed and specs that fail, and when an old version is let go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from windlass import errors
from windlass.packaging import archive, build, draft
from windlass.serving.metrics import counters
from windlass.serving.routing import loader, pool
from windlass.types import inference, signature, spec

X = signature.TensorSpec("x", "FP32", ("batch", 2))
Y = msgspec.structs.replace(X, name="y")


@pytest.fixture
def endpoint(tmp_path: Path) -> Callable[..., spec.Endpoint]:
    """An echo endpoint by name and version."""

    def make(name: str, version: str = "1") -> spec.Endpoint:
        rows = np.ones((1, 2), np.float32)
        drafted = draft.Draft(
            files={"echo.json": msgspec.json.encode({"inputs": [X], "outputs": [Y]})},
            signature=signature.Signature((X,), (Y,)),
            trials=(draft.Trial("ones", {"x": rows}, {"y": rows}),),
            framework="echo",
            runtime="echo",
            max_batch=4,
        )
        package = build.build(drafted, name=name)
        path = tmp_path / f"{name}.windlass"
        if not path.exists():
            archive.write_zip(package, path)
        return spec.Endpoint(name, (spec.Arm(package.digest, version, str(path)),), threads=1, placement="inline")

    return make


class Watched:
    """The loader, whose loads may fail and whose sessions are watched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing: dict[str, Exception] = {}
        self.open: list[str] = []
        self._real = loader.load
        monkeypatch.setattr(loader, "load", self)

    def __call__(self, endpoint: spec.Endpoint, verdicts: str, trusted: tuple[str, ...]) -> loader.Loaded:
        version = f"{endpoint.name}@{endpoint.arms[0].version}"
        if endpoint.name in self.failing:
            raise self.failing[endpoint.name]
        loaded = self._real(endpoint, verdicts, trusted)
        self.open.append(version)
        unload = loaded.session.model.unload

        def closed() -> None:
            self.open.remove(version)
            unload()

        loaded.session.model.unload = closed  # type: ignore[method-assign]
        return loaded


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """What is in memory."""
    return Watched(monkeypatch)


def _run(drill: Callable[[pool.Pool], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        found = pool.Pool(asyncio.get_running_loop(), counters.Counters())
        try:
            await drill(found)
        finally:
            found.close()

    asyncio.run(inside())


def test_specs_replace_each_other_and_only_newer_ones(endpoint: Callable[..., spec.Endpoint], loads: Watched) -> None:
    async def drill(models: pool.Pool) -> None:
        assert not models.ready()
        await models.apply(spec.Spec((endpoint("a"), endpoint("b"))))
        assert models.ready()
        assert loads.open == ["a@1", "b@1"]
        first = models.find("a")
        with pytest.raises(errors.Conflict):
            await models.apply(spec.Spec((endpoint("a", "2"),)))
        await models.apply(spec.Spec((endpoint("a", "2"), endpoint("b")), generation=2))
        assert (models.find("a").version, models.find("b").version) == ("2", "1")
        assert models.find("a").infer is not first.infer
        assert sorted(loads.open) == ["a@2", "b@1"]
        await models.apply(spec.Spec((endpoint("b"),), generation=3))
        with pytest.raises(errors.NotFound, match="unknown model"):
            models.find("a")
        assert loads.open == ["b@1"]

    _run(drill)


@pytest.mark.promise("P-39")
@pytest.mark.parametrize("fault", [errors.CorruptPackage("a byte is wrong"), OSError("disk"), MemoryError()])
def test_a_spec_that_fails_leaves_everything_as_it_was(
    endpoint: Callable[..., spec.Endpoint], loads: Watched, fault: Exception
) -> None:
    async def drill(models: pool.Pool) -> None:
        await models.apply(spec.Spec((endpoint("a"),)))
        before = models.find("a")
        loads.failing["bad"] = fault
        with pytest.raises(type(fault)):
            await models.apply(spec.Spec((endpoint("a", "2"), endpoint("bad")), generation=2))
        assert models.find("a") is before
        assert models.generation == 1
        # What had been loaded for it is gone again.
        assert loads.open == ["a@1"]
        with pytest.raises(errors.Unavailable, match="failed to load"):
            models.find("bad")
        await models.apply(spec.Spec((endpoint("a", "2"),), generation=2))
        with pytest.raises(errors.NotFound):
            models.find("bad")
        assert [s.name for s in models.states()] == ["a"]

    _run(drill)


@pytest.mark.promise("P-38")
def test_an_old_version_is_let_go_with_its_last_request(endpoint: Callable[..., spec.Endpoint], loads: Watched) -> None:
    async def drill(models: pool.Pool) -> None:
        await models.apply(spec.Spec((endpoint("a"),)))
        old = models.find("a")
        old.lease.hold()
        await models.apply(spec.Spec((endpoint("a", "2"),), generation=2))
        assert sorted(loads.open) == ["a@1", "a@2"]
        answered: list[str] = []
        request = inference.InferRequest(model="a", inputs={"x": np.ones((1, 2), np.float32)})
        old.infer(
            inference.Call(
                request=request,
                on_reply=lambda _c, response, _f: answered.append(response.version),
                on_fail=lambda _c, error: answered.append(error.code),
            )
        )
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert answered == ["1"]
        old.lease.release()
        assert loads.open == ["a@2"]

    _run(drill)


@pytest.mark.promise("P-38")
def test_clients_load_and_unload_what_the_repository_holds(
    endpoint: Callable[..., spec.Endpoint], loads: Watched
) -> None:
    async def drill(models: pool.Pool) -> None:
        await models.apply(spec.Spec((endpoint("a"),), repository=(endpoint("spare"),)))

        async def change(how: Callable[..., None], name: str) -> errors.WindlassError | None:
            told: asyncio.Future[errors.WindlassError | None] = asyncio.get_running_loop().create_future()
            how(name, told.set_result)
            return await told

        assert isinstance(await change(models.load, "nothing"), errors.NotFound)
        assert isinstance(await change(models.load, "a"), errors.NotFound)
        assert await change(models.load, "spare") is None
        assert models.find("spare").version == "1"
        # Unloading is done when the memory is free: not while a request holds it.
        view = models.find("spare")
        view.lease.hold()
        unloading = asyncio.create_task(change(models.unload, "spare"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(errors.NotFound):
            models.find("spare")
        assert not unloading.done()
        assert "spare@1" in loads.open
        # Nor does anything else wait for that request: a new spec (a key that ends, an alias that moves) is in force.
        await asyncio.wait_for(
            models.apply(spec.Spec((endpoint("a"),), generation=2, repository=(endpoint("spare"),))), 5
        )
        assert not unloading.done()
        view.lease.release()
        assert await unloading is None
        assert loads.open == ["a@1"]
        loads.failing["spare"] = RuntimeError("inside /srv/secret.py")
        failed = await change(models.load, "spare")
        assert isinstance(failed, errors.InternalError)
        await models.apply(spec.Spec((endpoint("a"),), generation=3, repository=(endpoint("spare"),), managed=True))
        assert isinstance(await change(models.load, "spare"), errors.NotAllowed)

    _run(drill)


def test_what_the_first_spec_names_is_loading_before_it_is_applied(endpoint: Callable[..., spec.Endpoint]) -> None:
    async def drill(models: pool.Pool) -> None:
        models.expect(spec.Spec((endpoint("a"), endpoint("other"))))
        with pytest.raises(errors.Unavailable, match="is loading"):
            models.find("a")
        with pytest.raises(errors.NotFound):
            models.find("b")
        # Another spec may come first.
        await models.apply(spec.Spec((endpoint("a"),)))
        assert models.find("a").version == "1"
        with pytest.raises(errors.NotFound):
            models.find("other")
        await models.freed(0)

    _run(drill)
