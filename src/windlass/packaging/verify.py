"""Everything that can be checked of a package on this machine, as evidence.

Called by the CLI (`windlass verify`), by the registry's gate (in a child process) and after import. Must never stop at
a good sign: every byte, the structure, the external data, the load and the golden outputs are checked, in this order.
"""

from __future__ import annotations

from typing import Any

import msgspec

from windlass import errors
from windlass.packaging import archive, session
from windlass.runtimes import base
from windlass.types import evidence

_ONE_THREAD = base.Options()


def verify(package: archive.Package, *, options: base.Options = _ONE_THREAD) -> evidence.Evidence:
    """The evidence, `passed` or `failed` with the reason; only what says nothing of the package is raised.

    A missing library or an unreadable disk is raised (`Unsupported`, `Unavailable`), for it is no verdict.
    """
    refs = package.manifest.blobs().values()
    statistics: dict[str, Any] = {"blobs": len(refs), "bytes": sum(ref.size for ref in refs)}
    try:
        # Opening reads every blob that the manifest names: the model's, the transforms' and the golden ones.
        apart = session.carries_code(package.manifest.model.runtime)
        loaded = session.open(package, options=options, where="apart" if apart else "here")
        excess, seen = loaded.golden_excess, loaded.resemblance
        statistics["golden_excess"] = seen.golden_excess if seen else excess
        if seen is not None:
            statistics["sample"] = {**msgspec.to_builtins(seen), "words": seen.words}
        loaded.close()
    except (errors.CorruptPackage, errors.GateRefused, errors.InternalError) as e:
        return evidence.Evidence(
            package.digest, "verify", "failed", {**statistics, "code": e.code, "reason": e.message}
        )
    return evidence.Evidence(package.digest, "verify", "passed", statistics)
