"""The collector beside pushes, loads, rollbacks and deletions: it takes nothing that is needed, and leaves the rest."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import stateful
from hypothesis import strategies as st

from windlass import errors
from windlass.registry import records, retention
from windlass.registry import registry as registries
from windlass.storage import blobs, database
from windlass.types import refs

Push = Callable[..., Any]
CONTENTS = ("a", "b", "c", "d")
NAMES = ("digits", "cancer")


class Meddled:
    """A package during whose storing other things happen, and which may never be stored to its end."""

    def __init__(self, package: Any, meddle: Iterator[Callable[[], None]], *, dies: bool) -> None:
        self.manifest = package.manifest
        self.digest = package.digest
        self._package = package
        self._meddle = meddle
        self._dies = dies

    def entries(self) -> Iterator[tuple[str, Any]]:
        for entry in self._package.entries():
            yield entry
            next(self._meddle, lambda: None)()
        if self._dies:
            raise KeyboardInterrupt


class Retention(stateful.RuleBasedStateMachine):
    """Any order of the collector's single steps, between and in the middle of all else."""

    make_package: Callable[..., Any]
    parent: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=self.parent))
        self.now = 1_000.0
        root = str(self.folder / "blobs")
        rows = database.open_database(f"sqlite:///{self.folder}/registry.db")
        self.store = blobs.BlobStore(root)
        self.registry = registries.Registry(rows, self.store, records.Records.below(root), lambda: self.now)
        self.collector = retention.Collector(rows, self.store)
        self.alive: dict[tuple[str, int], dict[str, Any]] = {}
        self.packages = {content: self.make_package(content) for content in CONTENTS}
        digests = {d for p in self.packages.values() for d in (p.digest, *p.manifest.blobs())}
        self.digests = sorted(digests)

    def teardown(self) -> None:
        # What nothing needs is gone after two collections; what is needed is all that is left.
        self.registry.gc(0)
        self.registry.gc(0)
        needed = {digest for blobs_of in self.alive.values() for digest in blobs_of}
        left, trash = set(self.store.digests()), set(self.store.digests("trash"))
        self.registry.close()
        shutil.rmtree(self.folder)
        assert left == needed
        assert trash == set()

    def steps(self, chosen: list[tuple[str, int]]) -> Iterator[Callable[[], None]]:
        for kind, index in chosen:
            digest = self.digests[index % len(self.digests)]
            if kind == "trash":
                yield lambda d=digest: self.collector.trash(d, now=self.now, cutoff=self.now)
            elif kind == "delete":
                yield lambda d=digest: self.collector.delete(d, cutoff=self.now)
            else:
                yield lambda: self.registry.gc(0)

    meddling = st.lists(st.tuples(st.sampled_from(("trash", "delete", "gc")), st.integers(0, 20)), max_size=6)

    @stateful.rule(content=st.sampled_from(CONTENTS), name=st.sampled_from(NAMES), chosen=meddling)
    def push(self, content: str, name: str, chosen: list[tuple[str, int]]) -> None:
        package = self.packages[content]
        pushed = self.registry.push(Meddled(package, self.steps(chosen), dies=False), name=name, actor="ada")
        self.alive[name, pushed.version] = {package.digest: None, **package.manifest.blobs()}

    @stateful.rule(content=st.sampled_from(CONTENTS), chosen=meddling)
    def push_that_dies(self, content: str, chosen: list[tuple[str, int]]) -> None:
        with pytest.raises(KeyboardInterrupt):
            self.registry.push(
                Meddled(self.packages[content], self.steps(chosen), dies=True), name="digits", actor="ada"
            )

    @stateful.rule(chosen=meddling)
    def collect_in_steps(self, chosen: list[tuple[str, int]]) -> None:
        for step in self.steps(chosen):
            step()

    @stateful.rule(grace=st.sampled_from((0.0, 10.0, 100.0)), later=st.sampled_from((0.0, 5.0, 50.0)))
    def collect(self, grace: float, later: float) -> None:
        self.now += later
        self.registry.gc(grace)

    @stateful.rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if self.alive:
            name, number = data.draw(st.sampled_from(sorted(self.alive)))
            try:
                self.registry.delete(name, number, actor="ada")
            except errors.Conflict:
                return
            del self.alive[name, number]

    @stateful.rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        if self.alive:
            name, number = data.draw(st.sampled_from(sorted(self.alive)))
            self.registry.move_alias(name, "production", number, actor="ada", force=True, reason="test")

    @stateful.rule(name=st.sampled_from(NAMES))
    def roll_back(self, name: str) -> None:
        try:
            event = self.registry.rollback_alias(name, "production", actor="ada", force=True, reason="test")
        except (errors.Conflict, errors.NotAllowed, errors.NotFound):
            return
        assert (name, event.to_version) in self.alive

    @stateful.invariant()
    def everything_alive_can_be_loaded(self) -> None:
        for (name, number), needed in self.alive.items():
            resolved = self.registry.resolve(refs.parse(f"{name}@{number}"))
            assert resolved.digest in needed
            for digest in needed:
                self.store.read(digest)


def run_machine(make_package: Callable[..., Any], parent: Path, examples: int, steps: int) -> None:
    machine = type("Machine", (Retention,), {"make_package": staticmethod(make_package), "parent": parent})
    stateful.run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )


@pytest.mark.promise("P-63")
def test_the_collector_never_takes_what_is_needed(scratch: Path, make_package: Callable[..., Any]) -> None:
    run_machine(make_package, scratch, 15, 20)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.promise("P-63")
def test_the_collector_never_takes_what_is_needed_in_ten_thousand_runs(
    scratch: Path, make_package: Callable[..., Any]
) -> None:
    run_machine(make_package, scratch, 10_000, 30)


@pytest.mark.promise("P-63")
def test_collectors_race_pushes_loads_and_rollbacks(
    place: Any, push: Push, fork: Callable[..., Any], make_package: Callable[..., Any]
) -> None:
    """Processes that push, load, roll back and delete the same few contents while two collectors leave no grace."""
    registry = place.open()

    def user(name: str) -> Callable[[Callable[[str], None]], None]:
        def work(acknowledge: Callable[[str], None]) -> None:
            own = place.open()
            for turn in range(10):
                first = push(own, CONTENTS[turn % 4], name=name).version
                second = push(own, CONTENTS[(turn + 1) % 4], name=name).version
                own.move_alias(name, "production", first, actor=name)
                own.move_alias(name, "production", second, actor=name)
                own.rollback_alias(name, "production", actor=name)
                for number in (first, second):
                    read_whole(own, f"{name}@{number}")
                own.move_alias(name, "production", None, actor=name)
                own.delete(name, first, actor=name)
                read_whole(own, f"{name}@{second}")
                acknowledge(str(turn))

        return work

    def collect(acknowledge: Callable[[str], None]) -> None:
        own = place.open()
        for _ in range(60):
            own.gc(0)

    users = [fork(user(name)) for name in ("one", "two", "three")]
    collectors = [fork(collect) for _ in range(2)]
    assert [worker.finish() for worker in users] == [(0, [str(turn) for turn in range(10)])] * 3
    assert [worker.finish()[0] for worker in collectors] == [0, 0]
    registry.gc(0)
    registry.gc(0)
    needed: set[str] = set()
    for model in registry.models():
        for version in registry.versions(model.name):
            if version.status == "READY":
                needed |= read_whole(registry, f"{model.name}@{version.version}")
    assert set(registry.store.digests()) == needed
    assert set(registry.store.digests("trash")) == set()
    registry.close()


def read_whole(registry: registries.Registry, ref: str) -> set[str]:
    shown = registry.show(refs.parse(ref))
    for blob in shown.manifest.blobs().values():
        registry.store.read(blob)
    return {shown.version.digest, *shown.manifest.blobs()}


def test_a_grace_in_place_and_a_grace_in_the_trash(tmp_path: Path, make_package: Callable[..., Any]) -> None:
    now = [0.0]
    root = str(tmp_path / "blobs")
    store = blobs.BlobStore(root)
    registry = registries.Registry(
        database.open_database(f"sqlite:///{tmp_path}/r.db"), store, records.Records.below(root), lambda: now[0]
    )
    stray = store.put(b"from a push that died").digest
    steps = []
    for at in (0.0, 9.0, 10.0, 19.0, 20.0):
        now[0] = at
        done = registry.gc(10)
        steps.append((at, done.trashed, done.deleted, store.exists(stray)))
    assert steps == [
        (0.0, 0, 0, True),
        (9.0, 0, 0, True),
        (10.0, 1, 0, False),
        (19.0, 0, 0, False),
        (20.0, 0, 1, False),
    ]
    registry.close()
