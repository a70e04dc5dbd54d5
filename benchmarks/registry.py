"""How long a large registry takes to answer: 10,000 models and 100,000 versions, on SQLite or PostgreSQL.

`registry.py [--models N] [--versions N] [--rounds N] [URL]` fills a database (a fresh SQLite file unless a URL is
given; PostgreSQL: postgresql://user@/database?host=FOLDER) and prints a table, in ms. `fill` is for whoever measures
what lies above the registry. Must never be pointed at a registry that somebody uses: it fills what it is given.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from windlass import errors
from windlass.packaging import archive
from windlass.registry import registration
from windlass.registry import registry as registries
from windlass.storage import blobs, database, tables
from windlass.types import evidence, manifest, refs, signature

WORDS = ("fraud", "churn", "price", "image", "text", "risk", "rank", "spam", "fault", "route")
BATCH = 5_000
# Versions with real packages, which `show` reads; the others have rows only.
REAL = 50


def fill(url: str, store: str, *, models: int, versions: int) -> list[str]:
    """Fill a registry evenly; returns the references of its real packages, the first version of some models."""
    chance = random.Random(4)
    registry = registries.Registry.open_at(url, store)
    names = [f"{chance.choice(WORDS)}-{chance.choice(WORDS)}-{n:05}" for n in range(models)]
    real = [push(registry, name) for name in names[:: max(1, models // REAL)]]
    registry.close()
    rows = database.open_database(url)
    with rows.write() as connection:
        ids = {row.name: row.id for row in connection.execute(sa.select(tables.model))}
        free = max(ids.values()) + 1
        fresh = [name for name in names if name not in ids]
        ids |= {name: free + n for n, name in enumerate(fresh)}
        insert(connection, tables.model, [{"id": ids[name], "name": name, "created_at": 0.0} for name in fresh])
        alias = {"name": refs.PRODUCTION, "version": 2, "generation": 1}
        insert(connection, tables.alias, [{"model_id": ids[name], **alias} for name in fresh])
        first = connection.execute(sa.select(sa.func.max(tables.version.c.id))).scalar_one() + 1
        insert_versions(connection, [ids[name] for name in names], versions - len(real), first, models)
    with rows.write() as connection:
        connection.execute(sa.text("ANALYZE"))
    rows.close()
    return real


def push(registry: registries.Registry, name: str) -> str:
    """Push a small package that passed its checks, with an alias; returns its reference."""
    data: dict[str, bytes] = {}

    def blob(value: bytes) -> manifest.BlobRef:
        ref = manifest.BlobRef(blobs.digest_of(value), len(value))
        data[ref.digest] = value
        return ref

    tensor = signature.TensorSpec("x", "FP32", ("batch", 4))
    value = manifest.Manifest(
        name=name,
        kind="model",
        signature=signature.Signature(inputs=(tensor,), outputs=(tensor,)),
        model=manifest.ModelSpec(runtime="echo", blobs={"model.bin": blob(name.encode())}),
        golden=manifest.Golden(inputs=blob(b"in"), outputs=blob(b"out"), rtol=1e-3, atol=1e-5),
        lineage=manifest.Lineage(framework="none"),
    )
    package: registration.Package = archive.in_memory(value, data)
    passed = (evidence.Evidence(package.digest, "parity", "passed", {"max_error": 0.0}),)
    done = registry.push(package, name=name, actor="bench", evidence=passed, tags={"team": "a"})
    registry.move_alias(name, refs.PRODUCTION, done.version, actor="bench")
    return f"{name}@{done.version}"


def insert_versions(connection: sa.Connection, models: list[int], count: int, first: int, spread: int) -> None:
    """Rows of versions, as many of each model, each with evidence, a tag and three blobs, one of them everybody's."""
    shared = digest("shared")
    insert(connection, tables.blob, [{"digest": shared, "size": 1, "touched_at": 0.0}])
    versions, found, tags, held, needed = [], [], [], [], []
    for n in range(count):
        own = [digest(f"{n} manifest"), digest(f"{n} weights")]
        row = {"id": first + n, "model_id": models[n % spread], "number": 2 + n // spread, "digest": own[0]}
        said = {"reason": "", "generation": 3, "size": 1, "parent": "", "lineage": "{}", "actor": "bench"}
        versions.append({**row, **said, "status": "READY", "description": "", "created_at": float(n)})
        proof = {"digest": own[0], "kind": "parity", "verdict": "passed", "statistics": "{}", "window": ""}
        found.append({**proof, "actor": "bench", "at": float(n)})
        tags.append({"version_id": first + n, "key": "team", "value": "a"})
        held += [{"digest": d, "size": 1, "touched_at": 0.0} for d in own]
        needed += [{"version_id": first + n, "digest": d} for d in (*own, shared)]
    insert(connection, tables.version, versions)
    insert(connection, tables.evidence, found)
    insert(connection, tables.tag, tags)
    insert(connection, tables.blob, held)
    insert(connection, tables.version_blob, needed)


def insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    """Insert many rows."""
    for start in range(0, len(rows), BATCH):
        connection.execute(sa.insert(table), rows[start : start + BATCH])


def digest(text: str) -> str:
    """A digest that nothing has."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def questions(registry: registries.Registry, real: list[str]) -> dict[str, Callable[[], object]]:
    """What is asked, by its name in the table."""
    chance = random.Random(5)
    names = [ref.partition("@")[0] for ref in real]
    shown = registry.show(refs.parse(real[0]))

    def unknown() -> None:
        try:
            registry.resolve(refs.parse(f"{chance.choice(names)}x"))
        except errors.NotFound:
            return
        raise SystemExit("a model that is not there was found")

    return {
        "list, the first 100": lambda: registry.models(limit=100),
        "list, 100 in the middle": lambda: registry.models(after=chance.choice(names), limit=100),
        "list, 100 that a key may see (glob)": lambda: registry.models(limit=100, only=("risk-*",)),
        "search, many hits": lambda: registry.models(search="fraud", limit=100),
        "search, one hit": lambda: registry.models(search=chance.choice(names)[-5:], limit=100),
        "search, no hit": lambda: registry.models(search="nothing", limit=100),
        "versions of a model": lambda: registry.versions(chance.choice(names), limit=100),
        "show a version": lambda: registry.show(refs.parse(chance.choice(real))),
        "show what an alias points to": lambda: registry.show(refs.parse(f"{chance.choice(names)}:production")),
        "resolve a reference": lambda: registry.resolve(refs.parse(chance.choice(names))),
        "who runs a digest": lambda: registry.users(shown.version.digest),
        "a model that is not there, with the nearest": unknown,
    }


def measure(ask: Callable[[], object], rounds: int) -> list[float]:
    """How long each of some questions took, in ms, after one that is not counted."""
    ask()
    took = []
    for _ in range(rounds):
        started = time.perf_counter()
        ask()
        took.append((time.perf_counter() - started) * 1e3)
    return took


def main() -> None:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url", nargs="?", default="")
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{Path(folder) / 'registry.db'}"
        store = str(Path(folder) / "blobs")
        started = time.perf_counter()
        real = fill(url, store, models=given.models, versions=given.versions)
        kind = url.partition(":")[0]
        print(f"{kind}: {given.models} models, {given.versions} versions, filled in", end=" ")
        print(f"{time.perf_counter() - started:.0f} s; {given.rounds} rounds each, ms\n")
        print("| question | median | p99 |\n| --- | ---: | ---: |")
        registry = registries.Registry.open_at(url, store)
        for name, ask in questions(registry, real).items():
            took = measure(ask, given.rounds)
            print(f"| {name} | {statistics.median(took):.1f} | {statistics.quantiles(took, n=100)[98]:.1f} |")
        registry.close()


if __name__ == "__main__":
    main()
