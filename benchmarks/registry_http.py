"""How long the control plane's API takes over a large registry: `windlass up` in a process of its own, asked over HTTP.

`registry_http.py [--models N] [--versions N] [--requests N] [URL]` fills a database as `registry.py` does (a fresh
SQLite file unless a URL is given), starts `windlass up` over it, asks with one client and with eight, and prints a
table, in ms. Must never be pointed at a registry that somebody uses: it fills what it is given.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import registry

CLIENTS = (1, 8)
ENDED_BY_THEN_S = 60.0


def paths(real: list[str], chance: random.Random) -> dict[str, Callable[[], str]]:
    """What is asked, by its name in the table."""

    def name() -> str:
        return chance.choice(real).partition("@")[0]

    return {
        "list, the first 100": lambda: "/models?limit=100",
        "list, 100 in the middle": lambda: f"/models?limit=100&after={name()}",
        "search, many hits": lambda: f"/models?search={chance.choice(registry.WORDS)}&limit=100",
        "search, one hit": lambda: f"/models?search={name()[-5:]}",
        "search, no hit": lambda: "/models?search=nothing",
        "versions of a model": lambda: f"/models/{name()}/versions",
        "show a version": lambda: f"/models/{(ref := chance.choice(real)).partition('@')[0]}/show?ref={ref}",
    }


@contextmanager
def up(home: Path, url: str, store: str) -> Iterator[tuple[str, str]]:
    """A control plane over a database: its URL and the admin key."""
    line = [sys.executable, "-m", "windlass.cli.main", "--home", str(home), "--json", "up", "--db", url]
    line += ["--store", store, "--port", "0", "--serve-port", "0", "--admin-port", "0", "--workers", "1"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WINDLASS_")}
    with (home.parent / "up.log").open("wb") as log:
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, env=environment)
    try:
        told = json.loads(process.stdout.readline()) if process.stdout else {}
        yield told["url"], told["key"]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(ENDED_BY_THEN_S)


def ask(url: str, key: str, wanted: list[str]) -> list[float]:
    """How long each of these answers took, in ms, over one connection."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
    headers = {"authorization": f"Bearer {key}"}
    took = []
    for path in wanted:
        started = time.perf_counter()
        connection.request("GET", f"/api/v1{path}", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        took.append((time.perf_counter() - started) * 1e3)
        if answer.status != http.client.OK:
            raise SystemExit(f"{path}: {answer.status} {body!r}")
    connection.close()
    return took


def measure(url: str, key: str, clients: int, wanted: list[str]) -> list[float]:
    """The same from several clients, each a process of its own."""
    parts = [wanted[n::clients] for n in range(clients)]
    with concurrent.futures.ProcessPoolExecutor(clients) as pool:
        # Nobody is measured while others are still being started.
        list(pool.map(ask, [url] * clients, [key] * clients, [part[:3] for part in parts]))
        found = pool.map(ask, [url] * clients, [key] * clients, parts)
        return [one for some in found for one in some]


def main() -> None:
    """Fill, start, ask, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url", nargs="?", default="")
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=1_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{Path(folder) / 'registry.db'}"
        store = str(Path(folder) / "blobs")
        real = registry.fill(url, store, models=given.models, versions=given.versions)
        home = Path(folder) / "home"
        home.mkdir(mode=0o700)
        print(f"{url.partition(':')[0]}: {given.models} models, {given.versions} versions", end="; ")
        print(f"{given.requests} requests each, ms; load average before {os.getloadavg()[0]:.1f}\n")
        print("| question | clients | median | p99 | most | answers/s |\n| --- | ---: | ---: | ---: | ---: | ---: |")
        with up(home, url, store) as (plane, key):
            for name, path in paths(real, random.Random(5)).items():
                for clients in CLIENTS:
                    started = time.perf_counter()
                    took = measure(plane, key, clients, [path() for _ in range(given.requests)])
                    rate = given.requests / (time.perf_counter() - started)
                    p99 = statistics.quantiles(took, n=100)[98]
                    print(f"| {name} | {clients} | {statistics.median(took):.1f} | {p99:.1f} |", end="")
                    print(f" {max(took):.0f} | {rate:.0f} |", flush=True)


if __name__ == "__main__":
    main()
