"""The child's side of `probation.py`: opens one package, which checks its golden outputs, and says how it went.

Started by `security/confine.py` with the walls up. Must never do more than a server does when it loads the package.
"""

from __future__ import annotations

import sys
from pathlib import Path

from windlass import errors
from windlass.packaging import archive, probation, session


def judge(path: Path) -> int:
    """The exit code; the last words on stdout are `passed <digest>`, or the reason."""
    try:
        package = archive.open_path(path)
        session.open(package, where="confined").close()
    except errors.WindlassError as e:
        sys.stdout.write(f"{e.code}: {e.message}")
        return 1
    sys.stdout.write(f"{probation.PASSED} {package.digest}")
    return 0


if __name__ == "__main__":
    sys.exit(judge(Path(sys.argv[1])))
