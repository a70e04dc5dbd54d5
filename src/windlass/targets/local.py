"""The server of this machine: one supervisor, detached, that serves every deployment whose target is `local`.

Started when it is first needed and found again by its name in the home's `run` folder; it survives whoever started it.
Called by the controller. Must never touch an endpoint of another deployment, nor decide what is served.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from windlass import errors, references, settings
from windlass.client import control
from windlass.records import keys as key_rows
from windlass.security import pepper
from windlass.serving import launch
from windlass.serving.routing import differing, exposures
from windlass.serving.transport import addresses
from windlass.targets import base, counted
from windlass.types import deployment, spec

NAME = "local"
_TRIES = 20
# Keys are read again this often, so that one that was revoked is told to the server soon.
_KEYS_S = 1.0
# Deployments that are looked at together share one look at the server; what is as it should be, one for longer.
_TOGETHER_S = 0.2
_KNOWN_S = 1.0
# Keys that did not change are compared with the server's this often, for it may have been started again.
_TOLD_S = 5.0
_SERVING = deployment.Serving.__struct_fields__


class _Look(NamedTuple):
    """What a server said at one moment: the spec in force and its outcomes; `puts`: how many changes came before.

    `outcomes` None: it is known what runs, and not what came of it.
    """

    at: float
    path: str
    puts: int
    current: spec.Spec
    outcomes: dict[str, Any] | None


class Local:
    """The deployments of one home on this machine.

    `template` is what a server that has to be started is like: addresses, TLS, networks, limits. `permitted` is called
    between reading the spec in force and replacing it: it raises where this process may act no more. With the server's
    refusal of a spec that is not newer, no act of a controller that lost its lease can follow one of its successor.
    """

    def __init__(
        self,
        configuration: settings.Settings,
        *,
        template: spec.Spec | None = None,
        permitted: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._configuration = configuration
        self._home = configuration.home.absolute()
        self._template = template or like_settings(configuration)
        self._permitted = permitted
        self._clock = clock
        self._counted = counted.Counted(self._home / "state" / "counted")
        self._starting = threading.Lock()
        self._asking = threading.Lock()
        self._looking = threading.Lock()
        self._last: _Look | None = None
        self._puts = 0
        self._key_rows: key_rows.Keys | None = None
        # By deployment: what was refused when it was last applied, and what is being loaded.
        self._refused: dict[str, dict[str, str]] = {}
        self._loading: dict[str, tuple[str, ...]] = {}
        self._keys: tuple[float, tuple[spec.Key, ...], str] | None = None

    def apply(self, wanted: deployment.Wanted) -> None:
        """As `base.Target.apply`; the server is started if it does not run."""
        self._change(wanted.name, endpoint_of(wanted, self._configuration.store_root))

    def remove(self, name: str) -> None:
        """As `base.Target.remove`; the server runs on."""
        if launch.find(self._home, NAME) is not None:
            self._change(name, None)
        self._counted.forget(name)

    def observe(self, name: str) -> deployment.Observed:
        """As `base.Target.observe`; `Unavailable` if no server runs."""
        path = launch.find(self._home, NAME)
        if path is None:
            raise errors.Unavailable("the local server does not run")
        look = self._look(path, _TOGETHER_S)
        endpoint = next((e for e in look.current.endpoints if e.name == name), None)
        arms = {arm: deployment.ArmState("LOADING") for arm in self._loading.get(name, ())}
        arms |= {arm: deployment.ArmState("FAILED", why) for arm, why in self._refused.get(name, {}).items()}
        if endpoint is None:
            # What was counted before is told all the same: it is no part of what begins now.
            former = self._counted.kept(name)
            return deployment.Observed(
                at=look.at, arms=arms, generation=former.generation, segments=former.segments, mirrored=former.mirrored
            )
        mirror = () if endpoint.shadow is None else (endpoint.shadow.arm,)
        # A spec is in force once all its arms are loaded, verified and warm in every worker.
        arms |= {arm.name: deployment.ArmState("READY") for arm in (*endpoint.arms, *mirror)}
        found = self._counted.kept(name) if look.outcomes is None else self._counted.add(name, look.outcomes)
        return deployment.Observed(
            at=look.at,
            arms=arms,
            shares={a.name: a.share if len(endpoint.arms) > 1 else 100.0 for a in endpoint.arms},
            generation=found.generation,
            segments=found.segments,
            bounds=found.bounds,
            mirrored=found.mirrored,
            measured=look.outcomes is not None,
        )

    def exposures(self, name: str, since: float) -> Iterator[base.Exposed]:
        """As `base.Target.exposures`, from the log that the server keeps in its state folder.

        Only requests that were drawn: whoever chose an arm is no evidence for it.
        """
        for one in exposures.read(Path(self._template.state), name, since):
            if one.how in ("draw", "sticky"):
                yield one

    def differing(self, name: str, since: float) -> Iterator[base.Differing]:
        """As `base.Target.differing`, from the log that the server keeps in its state folder."""
        yield from differing.read(Path(self._template.state), name, since)

    def tell_keys(self) -> bool:
        """Put the keys of the home in force on the server, if it runs and has others; False: there is no more to do."""
        path = launch.find(self._home, NAME)
        if path is not None:
            current = self._look(path, _TOLD_S).current
            wanted = self._with(current, current.endpoints)
            if wanted != current:
                self._permitted()
                # Whoever was quicker told them too, or they are told the next time.
                with contextlib.suppress(errors.Conflict), contextlib.closing(control.Control(path)) as talk:
                    self._tell(talk, wanted, current)
        return False

    def _change(self, name: str, endpoint: spec.Endpoint | None) -> None:
        """Put this endpoint in the place of the one of its name, and the keys of the home in force."""
        path = self._server()
        current = self._look(path, _KNOWN_S).current
        if self._changed(current, name, endpoint) == current:
            self._refused.pop(name, None)
            return
        with contextlib.closing(control.Control(path)) as talk:
            for _ in range(_TRIES):
                current = talk.current()
                wanted = self._changed(current, name, endpoint)
                if wanted == current:
                    self._refused.pop(name, None)
                    return
                self._permitted()
                try:
                    self._put(talk, wanted, current, name)
                except errors.Conflict:
                    continue
                return
        raise errors.Unavailable("many change what the local server runs at once")

    def _changed(self, current: spec.Spec, name: str, endpoint: spec.Endpoint | None) -> spec.Spec:
        others = [e for e in current.endpoints if e.name != name]
        return self._with(current, (*others, endpoint) if endpoint is not None else others)

    def _look(self, path: str, oldest_s: float) -> _Look:
        """What the server says, asked again unless it was within `oldest_s` and nothing was changed since."""
        with self._looking:
            last = self._last
            fresh = last is not None and (last.path, last.puts) == (path, self._puts)
            if last is not None and fresh and 0 <= self._clock() - last.at < oldest_s:
                return last
            # Before it is asked: a change that comes in between makes this look an old one.
            at, puts = self._clock(), self._puts
            with contextlib.closing(control.Control(path)) as talk:
                current, told = talk.current(), None
                with contextlib.suppress(errors.WindlassError):
                    told = talk.outcomes()
                self._last = _Look(at, path, puts, current, told)
            return self._last

    def _tell(self, talk: control.Control, wanted: spec.Spec, current: spec.Spec) -> None:
        """Put a spec in force, after the one that it was made from."""
        try:
            talk.apply(msgspec.structs.replace(wanted, generation=current.generation + 1))
        finally:
            with self._looking:
                self._puts += 1

    def _put(self, talk: control.Control, wanted: spec.Spec, current: spec.Spec, name: str) -> None:
        there = _arms(current, name)
        new = tuple(arm for arm in _arms(wanted, name) if arm not in there)
        self._loading[name] = new
        try:
            self._tell(talk, wanted, current)
        except (errors.GateRefused, errors.CorruptPackage, errors.NotAllowed, errors.NotFound, errors.Unsupported) as e:
            self._refused[name] = dict.fromkeys(new, e.message)
            raise
        else:
            self._refused.pop(name, None)
        finally:
            self._loading.pop(name, None)

    def _with(self, current: spec.Spec, endpoints: Iterable[spec.Endpoint]) -> spec.Spec:
        """The spec in force with these endpoints, and with the keys and trust of the home."""
        keys, secret = self._keys_in_force()
        return msgspec.structs.replace(
            current,
            endpoints=tuple(sorted(endpoints, key=lambda e: e.name)),
            keys=keys,
            key_pepper=secret,
            trusted=launch.trusted(self._home),
        )

    def _keys_in_force(self) -> tuple[tuple[spec.Key, ...], str]:
        now = self._clock()
        if self._keys is None or not 0 <= now - self._keys[0] < _KEYS_S:
            with self._asking:
                if self._key_rows is None:
                    self._key_rows = references.open_keys(self._configuration)
            self._keys = (now, self._key_rows.live(), pepper.of_home(self._home))
        return self._keys[1:]

    def _server(self) -> str:
        """The control socket of the server, which is started if need be."""
        with self._starting:
            path = launch.find(self._home, NAME)
            if path is not None:
                return path
            self._permitted()
            keys, secret = self._keys_in_force()
            return launch.detached(
                msgspec.structs.replace(self._template, keys=keys, key_pepper=secret), self._home, name=NAME
            )


def like_settings(configuration: settings.Settings) -> spec.Spec:
    """The server that the settings describe, with nothing to serve yet; beyond loopback it must be given TLS."""
    serve = configuration.serve
    listen = f"{serve.host}:{serve.port}"
    if not addresses.is_loopback(serve.host):
        raise errors.NotAllowed(
            f"{serve.host} can be reached from other machines, and the local server was given no TLS.",
            hint="Set serve.host to 127.0.0.1.",
        )
    return spec.Spec(
        endpoints=(),
        managed=True,
        listen=listen,
        admin=f"127.0.0.1:{serve.admin_port}",
        state=str(configuration.home.absolute() / "state" / NAME),
    )


def endpoint_of(wanted: deployment.Wanted, store: str) -> spec.Endpoint:
    """The endpoint of a serving spec for what is wanted of a deployment; its packages lie in the blob store `store`."""

    def arm(release: deployment.Release, share: float) -> spec.Arm:
        return spec.Arm(
            release.digest,
            release.arm,
            store=store,
            ref=f"{release.name}@{release.version}",
            signature=release.signature,
            share=share,
        )

    mirror = wanted.mirror
    how: dict[str, Any] = {field: getattr(wanted.serving, field) for field in _SERVING}
    return spec.Endpoint(
        name=wanted.name,
        arms=tuple(arm(one.release, one.share) for one in wanted.arms),
        sticky=wanted.sticky,
        salt=wanted.salt,
        pins=wanted.pins,
        override=wanted.override,
        slow_ms=wanted.slow_ms,
        epoch=wanted.epoch,
        shadow=None
        if mirror is None
        else spec.Shadow(arm(mirror.release, 100.0), mirror.share, atol=mirror.atol, rtol=mirror.rtol),
        **how,
    )


def _arms(wanted: spec.Spec, name: str) -> tuple[str, ...]:
    """The names of an endpoint's arms, its mirror's among them."""
    for endpoint in wanted.endpoints:
        if endpoint.name == name:
            mirror = () if endpoint.shadow is None else (endpoint.shadow.arm,)
            return tuple(arm.name for arm in (*endpoint.arms, *mirror))
    return ()
