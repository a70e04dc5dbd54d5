"""The control plane of `windlass demo --life`, and the commands that it shows: they are run as they are shown.

Used by `cli/life.py`. Must never take over a control plane or a server that others started.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import IO

import click
import msgspec

from windlass import errors, settings
from windlass.cli import audit, deploy, feedback, keys, output, planes, rollback, up
from windlass.client import witness
from windlass.records import feedback as scores
from windlass.serving import launch
from windlass.targets import local

_COMMANDS: dict[str, click.Command] = {
    "audit": audit.audit,
    "deploy": deploy.deploy,
    "feedback": feedback.feedback,
    "keys": keys.keys,
    "rollback": rollback.rollback,
}
# So often the controller looks at what is under way.
_LOOKS_S = 0.5
_ENDED_BY_THEN_S = 90.0
_LABELS_EVERY_S = 0.5


def show(context: output.Context, text: str) -> None:
    """A command, as one would type it."""
    context.say(click.style(f"  $ windlass {text}", fg="cyan"))


def typed(context: output.Context, *words: str, shown: bool = True) -> str:
    """Run a command in this process, after it was shown; what it printed, or the error that it ended with."""
    if shown:
        show(context, shlex.join(words))
    # On a terminal a rollout is painted while it lasts; elsewhere its end is enough.
    inner = output.Context(context.settings, quiet=not context.lively)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        _COMMANDS[words[0]].main(list(words[1:]), prog_name=f"windlass {words[0]}", obj=inner, standalone_mode=False)
    return printed.getvalue().rstrip("\n")


def refuse_if_up(context: output.Context) -> None:
    """`Conflict` where something of this home runs already: the demo would end it."""
    if launch.find(context.settings.home, local.NAME) is not None or planes.controlled(context):
        raise errors.Conflict(
            f"a control plane or its server is running in {context.settings.home}.",
            hint="End it (Ctrl-C in its terminal), or take another home: windlass --home DIR demo --life",
        )


@contextlib.contextmanager
def running(context: output.Context, port: int) -> Iterator[up.Up]:
    """`windlass up` in a process of its own, on any free ports; at the end both it and the server are ended."""
    words = ["up", "--port", "0", "--serve-port", str(port), "--admin-port", "0"]
    show(context, shlex.join(words))
    home = context.settings.home
    environment = settings.for_child(context.settings) | {f"{settings.PREFIX}UP__INTERVAL_S": str(_LOOKS_S)}
    line = [sys.executable, "-m", "windlass.cli.main", "--json", *words]
    log = home / "up.log"
    with log.open("ab") as stderr:
        child = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=stderr)
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield _told(child, str(log))
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
        try:
            child.wait(_ENDED_BY_THEN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()
        # Where it ended without it: whoever ends the demo ends the server too.
        launch.stop(home, local.NAME)
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _told(child: subprocess.Popen[bytes], log: str) -> up.Up:
    stdout: IO[bytes] | None = child.stdout
    line = stdout.readline() if stdout is not None else b""
    if not line:
        raise errors.Unavailable("the control plane did not start.", hint=f"See {log}")
    return msgspec.json.decode(line, type=up.Up)


class Labels:
    """Tells how good answers were, while its `with` block lasts: the label of every request, half a second later."""

    def __init__(self, context: output.Context, name: str, asked: witness.Witness, truths: Sequence[str]) -> None:
        self._context = context
        self._name = name
        self._asked = asked
        self._truths = truths
        self._over = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="labels", daemon=True)

    def __enter__(self) -> Labels:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            seen = len(self._asked.answers())
            with planes.deployments(self._context) as found:
                while not self._over.wait(_LABELS_EVERY_S):
                    fresh = self._asked.answers(seen)
                    seen += len(fresh)
                    given = scored(fresh, self._truths, self._asked.watch.name)
                    if given:
                        found.take_feedback(self._name, given[: scores.MOST])
        except Exception as e:  # noqa: BLE001 - whoever waits for the labels is told
            self._failure = e


def scored(answers: Sequence[witness.Answer], truths: Sequence[str], name: str) -> list[scores.Given]:
    """The scores of answers, by their requests' ids: 1 for the right label, 0 for a wrong one."""
    return [
        scores.Given(
            score=float(one.label == truths[one.number % len(truths)]),
            request=f"{name}-{one.number}",
            label=truths[one.number % len(truths)],
        )
        for one in answers
        if one.ok
    ]
