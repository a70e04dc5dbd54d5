"""From what people write to what can be served: references become digests and places, once.

Used by the Python face and the CLI. Apart from both, because whoever only resolves needs no capture library.
Must never leave a reference for the data plane to understand.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from pathlib import Path

from windlass import errors, settings
from windlass.packaging import archive
from windlass.records import keys as key_rows
from windlass.registry import registry as registries
from windlass.security import pepper, signing
from windlass.types import evidence, refs, spec


def actor() -> str:
    """Who acts on the local home: the user of the operating system, whatever the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def open_registry(configuration: settings.Settings) -> registries.Registry:
    """The registry of the settings in force."""
    return registries.Registry.open_at(
        configuration.database_url, configuration.store_root, require=configuration.policy.require
    )


def open_keys(configuration: settings.Settings) -> key_rows.Keys:
    """The API keys of the settings in force."""
    return key_rows.Keys.open_at(configuration.database_url, pepper.of_home(configuration.home))


def keys_in_force(configuration: settings.Settings) -> tuple[tuple[spec.Key, ...], str]:
    """The live API keys of the home, and its pepper: what a server that is to use them is told."""
    secret = pepper.of_home(configuration.home)
    if not configuration.registry.db and not (configuration.home / "registry.db").exists():
        return (), secret
    found = open_keys(configuration)
    try:
        return found.live(), secret
    finally:
        found.close()


def signed(configuration: settings.Settings, name: str, digest: str) -> evidence.Evidence:
    """This home's word that it made a package: what was captured here may run here."""
    configuration.home.mkdir(parents=True, exist_ok=True)
    return vouched(digest, signing.sign(signing.own_key(configuration.home), name, digest))


def vouched(digest: str, envelope: str) -> evidence.Evidence:
    """A signature as it is kept: whether its key is listed is asked at each load."""
    return evidence.Evidence(digest, "signature", "passed", {"envelope": envelope})


def signature_of(registry: registries.Registry, ref: refs.Ref) -> str:
    """The envelope that was registered with a version, if it is signed."""
    found = [f.evidence for f in registry.show(ref).evidence if f.evidence.kind == "signature"]
    return str(found[-1].statistics.get("envelope", "")) if found else ""


def signature_file(path: Path) -> Path:
    """Where the signature of a package in a file or folder lies: beside it."""
    return path.with_name(f"{path.name}.sig")


def signature_beside(path: Path) -> str:
    """The envelope beside a package; empty if there is none."""
    file = signature_file(path)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def endpoints(configuration: settings.Settings, texts: Sequence[str]) -> tuple[spec.Endpoint, ...]:
    """The endpoints that these references name, each resolved to a digest once; `NotFound` names the nearest."""
    parsed = [(text, refs.parse(text)) for text in texts]
    found: dict[str, spec.Endpoint] = {}
    registry = open_registry(configuration) if any(ref.kind != "path" for _, ref in parsed) else None
    try:
        for text, ref in parsed:
            if registry is None or ref.kind == "path":
                opened = archive.open_path(Path(ref.path))
                name = opened.manifest.name
                arm = spec.Arm(
                    opened.digest,
                    "1",
                    path=str(Path(ref.path).absolute()),
                    ref=text,
                    signature=signature_beside(Path(ref.path)),
                )
            else:
                resolved = registry.resolve(ref)
                if resolved.status == "NEW":
                    raise errors.GateRefused(
                        f"{resolved.name}@{resolved.version} was never verified here.",
                        hint=f"Verify it: windlass verify {resolved.name}@{resolved.version}",
                    )
                name = resolved.name
                arm = spec.Arm(
                    resolved.digest,
                    str(resolved.version),
                    store=configuration.store_root,
                    ref=text,
                    signature=signature_of(registry, ref),
                )
            if name in found:
                raise errors.UsageError(
                    f"'{name}' is named twice: one endpoint answers with one version.", hint="Name each model once."
                )
            found[name] = spec.Endpoint(name=name, arms=(arm,))
    finally:
        if registry is not None:
            registry.close()
    return tuple(found.values())
