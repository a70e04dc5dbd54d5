"""`windlass demo`: the whole way on real data, with the commands that one would type oneself.

Must never show a number that was not measured in this run.
"""

from __future__ import annotations

import time
from typing import Any

import click
import numpy as np

from windlass import errors, references, sdk
from windlass.cli import demo_models, follow, life, output, progress
from windlass.client import inference as clients
from windlass.client import load as loads
from windlass.serving import launch

_EPOCHS = {1: 6, 2: 12}
_LOAD_S = 3.0


@click.command()
@click.option("--once", is_flag=True, help="End when everything was shown; else the server stays up.")
@click.option("--port", type=int, help="The server's port; 0 is any free one.  [8000, or any free one if it is taken]")
@click.option("--life", "lives", is_flag=True, help="Instead: rollouts under steady load, decided on evidence.")
@click.pass_obj
def demo(context: output.Context, once: bool, port: int | None, lives: bool) -> None:
    """Train, package, register, serve, ask, and move an alias under load, in a few minutes.

    With --life: a control plane, a first deployment, canaries of a good, a slow and a wrong version, a shadow, an A/B
    test and the way back, while requests come in all the time.
    """
    if lives:
        life.run(context, once=once, port=port or 0)
        return
    started = time.perf_counter()
    trained = _train_and_package(context)
    wanted = context.settings.serve.port if port is None else port
    with _server(context, wanted) as server, clients.Client(server.url) as client:
        _ask(context, client, server, trained)
        _load(context, server, trained)
        _second_version(context, server, trained)
        took = time.perf_counter() - started
        context.result({"seconds": round(took, 1), "url": server.url}, f"\nAll done in {took:.0f} s.")
        if not once:
            _stay(context, server)


def _say(context: output.Context, text: str) -> None:
    context.say(click.style(text, bold=True))


def _command(context: output.Context, text: str) -> None:
    context.say(click.style(f"  $ {text}", fg="cyan"))


def _train_and_package(context: output.Context) -> list[demo_models.Trained]:
    _say(context, "1. Three models: two trained here on real data, one with pre-trained weights")
    with progress.bar(context, "training digits", _EPOCHS[1]) as step:
        trained = [demo_models.digits(_EPOCHS[1], step), demo_models.cancer(), demo_models.minilm()]
    _say(context, "\n2. Package: capture as ONNX, compare with the framework, load in a sandbox, register")
    rows = []
    for model in trained:
        begun = time.perf_counter()
        version = _package(context, model)
        accuracy = "-" if model.accuracy is None else f"{model.accuracy:.1%}"
        rows.append((str(version), accuracy, f"{time.perf_counter() - begun:.1f} s", version.digest[:19]))
    context.say(output.table(("version", "held-out accuracy", "took", "digest"), rows))
    _command(context, "windlass models list")
    return trained


def _package(context: output.Context, model: demo_models.Trained) -> sdk.Version:
    with progress.steps(context, f"packaging {model.name}") as step:
        return sdk.package(
            model.source,
            model.example,
            name=model.name,
            labels=model.labels,
            transforms=model.transforms,
            description=model.description,
            home=context.settings.home,
            progress=step if context.lively else lambda _: None,
        )


def _server(context: output.Context, port: int) -> launch.Server:
    names = ("digits", "cancer", "minilm")
    _say(context, "\n3. Serve all three from one process")
    _command(context, f"windlass serve {' '.join(names)}")
    _move(context, "digits", 1, "the first one")
    begun = time.perf_counter()
    try:
        server = sdk.serve(*names, home=context.settings.home, port=port)
    except errors.Unavailable:
        # Somebody has that port: the demo needs any.
        server = sdk.serve(*names, home=context.settings.home, port=0)
    context.say(
        f"  {server.url} answers after {time.perf_counter() - begun:.1f} s; metrics on {server.admin_url}/metrics"
    )
    return server


def _ask(
    context: output.Context, client: clients.Client, server: launch.Server, trained: list[demo_models.Trained]
) -> None:
    _say(context, "\n4. Ask as a person would: a picture, a row of a table, a sentence")
    _command(context, f"curl --data-binary @digit.png -H 'Content-Type: image/png' {server.url}/predict/digits")
    rows = []
    for model in trained:
        answer, first, rest = _timed(lambda m=model: client.predict(m.name, m.question, media_type=m.media_type))
        rows.append((model.name, model.shown, _short(answer[0]), model.truth or "-", f"{first:.1f}", f"{rest:.2f}"))
        if model.truth and answer[0].get("label") != model.truth:
            context.say(f"  note: {model.name} is wrong about this one")
    context.say(output.table(("model", "asked with", "answer", "truth", "first ms", "then ms"), rows))
    _say(context, "\n   ... and as a program would: tensors, over the Open Inference Protocol")
    picture = np.asarray(trained[0].example)[1:2]
    logits, first, rest = _timed(lambda: client.infer("digits", {"image": picture}))
    name, array = next(iter(logits.items()))
    context.say(
        f"  POST /v2/models/digits/infer  image FP32 {list(picture.shape)} -> {name} FP32 {list(array.shape)}, "
        f"highest at {int(array.argmax())}  ({first:.1f} ms, then {rest:.2f} ms)"
    )


def _timed(ask: Any) -> tuple[Any, float, float]:
    """The answer, the milliseconds of the first time, and the median of 20 more."""
    begun = time.perf_counter()
    answer = ask()
    first = time.perf_counter() - begun
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        ask()
        times.append(time.perf_counter() - begun)
    return answer, first * 1e3, float(np.median(times)) * 1e3


def _short(answer: dict[str, Any]) -> str:
    if "label" in answer:
        return f"{answer['label']} ({answer['score']:.3f})"
    name, vector = next(iter(answer.items()))
    return f"{name}: {len(vector)} numbers"


def _load(context: output.Context, server: launch.Server, trained: list[demo_models.Trained]) -> None:
    _say(
        context, f"\n5. A short load on each: 32 connections for {_LOAD_S:.0f} s (this process asks, beside the server)"
    )
    rows = []
    for model in trained:
        with progress.steps(context, f"load on {model.name}"):
            report = _asking(server, model, connections=32, seconds=_LOAD_S).wait()
        largest = max(report.batches, default=0)
        rows.append(
            (
                model.name,
                f"{report.throughput:,.0f}",
                f"{report.quantile(0.5) * 1e3:.2f}",
                f"{report.quantile(0.99) * 1e3:.2f}",
                f"{report.mean_batch:.1f}",
                largest,
                report.lost,
            )
        )
    context.say(output.table(("model", "answers/s", "p50 ms", "p99 ms", "mean batch", "largest", "failed"), rows))


def _second_version(context: output.Context, server: launch.Server, trained: list[demo_models.Trained]) -> None:
    _say(context, "\n6. A second version of digits, trained for longer, moved in and out under load")
    with progress.bar(context, "training digits for longer", _EPOCHS[2]) as step:
        better = demo_models.digits(_EPOCHS[2], step)
    version = _package(context, better)
    context.say(f"  {version}: held-out accuracy {better.accuracy:.1%}, before {trained[0].accuracy:.1%}")
    load = _asking(server, better, connections=16)
    try:
        time.sleep(0.5)
        _command(context, f"windlass models alias digits production {version.version}")
        _move(context, "digits", version.version, "trained for longer")
        time.sleep(0.7)
        _command(context, "windlass models alias digits production --rollback")
        _move(context, "digits", None, "the demo goes back")
        time.sleep(0.5)
    finally:
        report = load.stop()
    rows = [(f"digits@{number}", count) for number, count in sorted(report.versions.items())]
    context.say(output.table(("answered by", "answers"), rows))
    context.say(f"  {report.sent:,} requests while the alias moved twice: {report.lost} failed")
    if report.lost:
        raise errors.InternalError(
            f"{report.lost} of {report.sent} requests failed while the alias moved: {report.statuses}"
        )
    if len(report.versions) < 2:
        raise errors.InternalError("the second version never answered: the alias did not reach the server")


def _asking(
    server: launch.Server, model: demo_models.Trained, *, connections: int, seconds: float = loads.FOREVER
) -> loads.Load:
    """A load that begins now."""
    target = loads.http(
        f"{server.url}/predict/{model.name}",
        model.question,
        content_type=model.media_type,
        headers={"x-server-timing": "1"},
    )
    return loads.Load(loads.closed(target, connections=connections, seconds=seconds, observe=True)).start()


def _move(context: output.Context, name: str, version: int | None, reason: str) -> None:
    """Move the alias `production` as `windlass models alias` does, and tell the running servers."""
    registry = references.open_registry(context.settings)
    try:
        if version is None:
            registry.rollback_alias(name, "production", actor=references.actor(), reason=reason)
        else:
            registry.move_alias(name, "production", version, actor=references.actor(), reason=reason)
    finally:
        registry.close()
    follow.alias_moved(context, name, "production")


def _stay(context: output.Context, server: launch.Server) -> None:
    context.say(f"\nThe server stays up on {server.url} (Ctrl-C ends it). Try, from another terminal:")
    _command(context, f"curl {server.url}/")
    _command(context, f"windlass --home {context.settings.home} predict minilm 'any sentence'")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        context.say("stopping")
