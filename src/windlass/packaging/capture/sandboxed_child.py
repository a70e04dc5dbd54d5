"""The child's side of `sandboxed.py`: captures one file with one plugin and leaves the draft as data.

Started by `security/confine.py` with the walls up; works in the scratch folder. Must never decide anything: the parent
reads what it leaves as it would read a stranger's file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from windlass import errors, plugins
from windlass.packaging import draft
from windlass.packaging.capture import exchange
from windlass.security import sandbox

QUESTION = "question"
ANSWER = "answer"


def capture(plugin: str, source: Path, question: Path, max_bytes: int) -> draft.Draft | exchange.Failure:
    """The plugin's draft; whatever it raises becomes data."""
    try:
        options = exchange.read_options(question, max_bytes)
        found: draft.Draft = plugins.load("capture", plugin).capture(source, options)
        return found
    except errors.WindlassError as e:
        return exchange.Failure(e.code, e.message[: sandbox.MAX_TEXT], e.hint[: sandbox.MAX_TEXT])
    except Exception as e:  # noqa: BLE001 (untrusted code raises what it likes)
        said = f"{type(e).__name__}: {e}"[: sandbox.MAX_TEXT]
        return exchange.Failure(errors.CaptureFailed.code, f"reading the model failed: {said}")


if __name__ == "__main__":
    scratch = Path.cwd()  # now: what is read may change folders
    answer = capture(sys.argv[1], Path(sys.argv[2]), scratch / QUESTION, int(sys.argv[3]))
    exchange.write_answer(scratch / ANSWER, answer)
