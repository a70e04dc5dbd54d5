"""`windlass demo --life`: a model's life under steady load, from its first deployment to the way back.

Called by `cli/demo.py`. Every command that is shown is run, and every number is measured in this run. Must never end
well if a request failed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import msgspec

from windlass import errors, sdk
from windlass.cli import life_figures, life_models, life_plane, output, planes, progress
from windlass.client import load, report, witness
from windlass.records import rollouts
from windlass.serving.routing import disagreements
from windlass.targets import local

NAME = "digits"
_RATE = 200.0
_USERS = 20_000
_TIMEOUT_S = 30.0
_BUDGET = 30.0
_BEFORE_S = 4.0
# The same for all, so that no version takes less at once than the one before.
_ROWS = 4
# Time is short here; evidence is not: as many requests are needed as anywhere.
_JUDGED = ("max_s=120", "delta=1", "margin=0.02")
_CANARY = (f"harmed_budget={_BUDGET:g}", "regression=3", "score_margin=0.05", "step_s=3", "min_s=15", *_JUDGED)
_SHADOW = ("min_s=5", "max_s=60", "atol=1.2", "rtol=0")
_EXPERIMENT = ("sticky=header:x-user", "promote_winner=true", "min_s=10", *_JUDGED)


class Life(msgspec.Struct, frozen=True):
    """What the parts share: the versions and why they are as they are, by role; the load; what came of each rollout."""

    context: output.Context
    versions: dict[str, sdk.Version]
    stories: dict[str, str]
    load: witness.Witness
    truths: list[str]
    ended: list[life_figures.Ended] = []

    def ref(self, role: str) -> str:
        """The version of a role, as one would type it."""
        return str(self.versions[role])


def run(context: output.Context, *, once: bool, port: int) -> None:
    """All of it; `InternalError` if a request failed, or something that is shown did not happen."""
    planes.here(context, "windlass demo --life")
    life_plane.refuse_if_up(context)
    begun = time.time()
    given, stories, versions = _packaged(context)
    _say(context, "\n2. The control plane and a server, and a key for those who ask")
    key = life_plane.typed(
        context, "keys", "create", f"life-{begun:.0f}", "--scope", "model:predict", "--expires", "1d"
    )
    with life_plane.running(context, port) as told:
        context.say(f"  control plane {told.url}, server {told.server}")
        _say(context, f"\n3. The first deployment: {versions['first']}")
        context.say(f"  {life_plane.typed(context, 'deploy', NAME, str(versions['first']), '--wait')}")
        pictures, truths = given.questions()
        with witness.Witness(_watch(told.server, key, pictures, begun)) as asked:
            life = Life(context, versions, stories, asked, truths)
            _steady(life)
            _live(life, begun)
            account = asked.stop()
        tell(context, life.ended, account, begun)
        if not once:
            _stay(context, told.url, told.server)


def _say(context: output.Context, text: str) -> None:
    context.say(click.style(text, bold=True))


def _packaged(context: output.Context) -> tuple[life_models.Data, dict[str, str], dict[str, sdk.Version]]:
    _say(context, "1. Six versions of one model, on real data (scikit-learn's digits): trained, checked, registered")
    given = life_models.data()
    with progress.bar(context, "training", 6) as step:
        made = life_models.versions(given, step)
    found, rows = {}, []
    for one in made:
        with progress.steps(context, f"packaging the {one.role} one"):
            found[one.role] = sdk.package(
                one.source,
                given.test[:_ROWS].numpy(),
                name=NAME,
                labels=tuple("0123456789"),
                transforms=({"kind": "image", "input": "image", "width": 8, "height": 8, "channels": 1},),
                description=one.story,
                home=context.settings.home,
                max_batch=_ROWS,
            )
        rows.append((str(found[one.role]), one.story, f"{one.accuracy:.1%}"))
    context.say(output.table(("version", "what it is", "in its own test"), rows))
    return given, {one.role: one.story for one in made}, found


def _watch(server: str, key: str, pictures: list[bytes], begun: float) -> witness.Watch:
    target = load.http(
        f"{server}/predict/{NAME}",
        pictures,
        content_type="image/png",
        headers={"authorization": f"Bearer {key}"},
    )
    planned = load.opened(target, rate=_RATE, timeout_s=_TIMEOUT_S)
    # Ids are not to meet those of an earlier run in the same home.
    return witness.Watch(planned, f"life{begun:.0f}", _USERS)


def _steady(life: Life) -> None:
    """Wait for the load to be there, and for what the live version does to be known."""
    life.context.say(
        f"  from here on {_RATE:g} requests a second arrive, whatever is answered (Poisson; {_USERS:,} users)"
    )
    time.sleep(_BEFORE_S)
    found = life.load.answers()
    if not found or not all(one.ok for one in found):
        raise errors.InternalError(f"the load is not answered: {found[:1]}")


def _live(life: Life, begun: float) -> None:
    """The rollouts, one after the other."""
    context = life.context
    _say(context, "\n4. A canary of a good version. Labels come in by request id, half a second after the answers")
    _canary(life, "good")
    _say(context, "\n5. A canary of a slow version")
    _canary(life, "slow")
    _say(context, "\n6. A canary of a wrong version: quick, without errors, and well tested, on sideways pictures")
    _canary(life, "wrong")
    _say(context, "\n7. A shadow: asked the same as the live version, never answering anybody")
    _shadow(life)
    _say(context, "\n8. A/B: half of the users each, by the header x-user, until their labels name a winner")
    roll_out(life, "A/B", "better", "experiment", _EXPERIMENT, labels=True)
    _say(context, "\n9. Back again")
    back(life)
    _say(context, "\n10. Who did what, and what was live when")
    record(life, begun)


def _canary(life: Life, role: str) -> None:
    found = roll_out(life, f"canary ({role})", role, "canary", _CANARY, labels=True, budget=_BUDGET)
    _expect(found, life.versions[role].version, reached=role == "good")
    life.context.say(
        f"  harmed: {found.harmed} requests ({found.bad} slow or failed, {found.wrong} wrong, beyond what the live one"
        f" would have) of {found.asked:,} that it was asked; the budget: {found.budget:g}"
    )


def roll_out(
    life: Life,
    what: str,
    role: str,
    strategy: str,
    parameters: Sequence[str],
    *,
    labels: bool = False,
    budget: float = 0.0,
) -> life_figures.Ended:
    """One deployment by a strategy, watched to its end."""
    context = life.context
    words = ["deploy", NAME, life.ref(role), "--strategy", strategy, "--reason", life.stories[role]]
    for parameter in parameters:
        words += ["--set", parameter]
    # What a run before this one left aborted is tried anew.
    again = [] if life.versions[role].created else ["--again"]
    number = _newest(life)[0].number
    try:
        with life_plane.Labels(context, NAME, life.load, life.truths) if labels else contextlib.nullcontext():
            life_plane.typed(context, *words, *again, "--wait")
    except errors.GateRefused:
        # Refused before it began, or aborted by its evidence?
        if _newest(life)[0].number == number:
            raise
    newest, steps = _newest(life)
    seen = life_figures.by_version(life.load.answers(), life.truths, newest.started_at)
    ended = life_figures.ended(what, newest, steps, seen, budget)
    life.ended.append(ended)
    shares = ", ".join(f"{share:g} %" for share in ended.shares)
    context.say(
        f"  {ended.verdict or ended.words} after {ended.took_s:.1f} s"
        f"{f' at {shares} of the requests' if shares else ''}; live: {NAME}@{ended.live}"
    )
    context.say(f"  {ended.words}")
    return ended


def _newest(life: Life) -> tuple[rollouts.Rollout, tuple[rollouts.Step, ...]]:
    with planes.deployments(life.context) as found:
        newest = max(found.rollouts(NAME), key=lambda one: one.number)
        return newest, found.steps(newest.id)


def _expect(found: life_figures.Ended, version: int, *, reached: bool) -> None:
    if (found.live == version) != reached:
        raise errors.InternalError(
            f"the {found.what} of {NAME}@{version} ended otherwise than it should: {found.verdict} {found.words}",
            hint="A machine that is busy with other things measures other latencies: run it again when it is quiet.",
        )


def _shadow(life: Life) -> None:
    begun = time.time()
    roll_out(life, "shadow", "rounded", "shadow", _SHADOW)
    state = life.context.settings.home.absolute() / "state" / local.NAME
    kept = [one for one in disagreements.read(state, NAME) if one.time >= begun]
    if not kept:
        raise errors.InternalError("the shadow answered nothing otherwise: a rounded network must")
    worst = kept[0]
    life.context.say(
        f"  {len(kept)} disagreements are kept to be looked at; the worst: request {worst.request}, where a score of"
        f" {NAME}@{worst.shadow} is off by {worst.difference:.3f} from that of {NAME}@{worst.arm}"
    )


def back(life: Life) -> None:
    """A rollback, timed by the load."""
    live = life.ended[-1].live
    since = time.time()
    said = life_plane.typed(life.context, "rollback", NAME, "--reason", "the demo goes back")
    time.sleep(1.0)
    answers = life.load.answers()
    took = life_figures.until_gone(answers, str(live), since)
    life.context.say(f"  {said}")
    life.context.say(f"  as the callers saw it: the last answer of {NAME}@{live} came {took:.2f} s after the command")
    ended = life_figures.ended("rollback", *_newest(life), {})
    life.ended.append(msgspec.structs.replace(ended, took_s=took))


def record(life: Life, begun: float) -> None:
    """The audit log since a time; what was live while the first aborted one was under way; that the log is whole."""
    context = life.context
    looked = next((one for one in life.ended if one.verdict == "ABORT"), life.ended[0])
    show: Callable[..., str] = life_plane.typed
    wished = ("--subject", f"deployment/{NAME}", "--action", "deployment.changed", "--since", _moment(begun))
    context.say(show(context, "audit", "list", *wished))
    context.say(show(context, "audit", "live", NAME, "--at", _moment(looked.began + looked.took_s / 2)))
    context.say(show(context, "audit", "verify"))


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at))


def tell(context: output.Context, ended: Sequence[life_figures.Ended], account: report.Report, begun: float) -> None:
    """Every rollout in a line, and every request; `InternalError` if any failed."""
    _say(context, "\nAll rollouts, and what they cost")
    rows: list[tuple[Any, ...]] = [
        (
            one.what,
            f"@{one.version}",
            one.verdict or "-",
            f"@{one.live}",
            f"{one.took_s:.1f} s",
            f"{one.harmed}" if one.budget else "-",
            f"{one.budget:g}" if one.budget else "-",
        )
        for one in ended
    ]
    context.say(output.table(("what", "version", "verdict", "live then", "took", "harmed", "budget"), rows))
    took = time.time() - begun
    failed = account.lost + account.outcomes.not_sent
    context.result(
        {"seconds": round(took, 1), "requests": account.scheduled, "failed": failed, "rollouts": ended},
        f"\n{account.scheduled:,} requests at {_RATE:g} a second, p50 {account.quantile(0.5) * 1e3:.1f} ms,"
        f" p99 {account.quantile(0.99) * 1e3:.1f} ms: {failed} failed. All done in {took:.0f} s.",
    )
    if failed:
        raise errors.InternalError(f"{failed} of {account.scheduled} requests failed: {account.statuses}")


def _stay(context: output.Context, url: str, server: str) -> None:
    home = context.settings.home
    context.say(
        f"\nThe control plane stays up on {url}, the server on {server} (Ctrl-C ends both). From another terminal:"
    )
    for command in (f"rollout status {NAME}", f"rollout history {NAME}", f"deploy {NAME} {NAME}@1 --wait"):
        life_plane.show(context, f"--home {home} {command}")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        context.say("stopping")
