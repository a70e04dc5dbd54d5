"""Progress on a terminal: a spinner that names the step, and a bar; plain lines when stderr is no terminal.

Used by the commands that take long. Apart from `output.py` because rich takes 60 ms to import.
Must never write to stdout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

from windlass.cli import output


@contextlib.contextmanager
def steps(context: output.Context, title: str) -> Iterator[Callable[[str], None]]:
    """A spinner; the yielded function names the step that begins now."""
    if not context.lively:
        yield context.say
        return
    console = rich.console.Console(stderr=True, highlight=False)
    with console.status(title) as status:
        yield lambda text: status.update(f"{title}: {text}")


@contextlib.contextmanager
def bar(context: output.Context, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of `total` steps; the yielded function moves it on."""
    if not context.lively:
        yield lambda _: None
        return
    console = rich.console.Console(stderr=True, highlight=False)
    with rich.progress.Progress(console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.advance(task, done)
