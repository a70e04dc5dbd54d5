"""`windlass`: the command line, one file a verb, each imported when it is asked for.

Must never import a room before a command needs it: `windlass --help` answers at once.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click

import windlass
from windlass import errors
from windlass.cli import lazy

VERBS = {
    "demo": lazy.Late("demo:demo", "From three trained models to answering endpoints, in a few minutes."),
    "package": lazy.Late("package:package", "Capture a trained model, check it and register it as a new version."),
    "inspect": lazy.Late("inspect:inspect", "Show a version's manifest: signature, files, limits, lineage."),
    "show": lazy.Late("show:show", "Show what was found when a version was optimized, as text or as a page."),
    "verify": lazy.Late("verify:verify", "Check a version's bytes, and that it still computes its golden outputs."),
    "models": lazy.Late("models:models", "List, show, alias, import, export and delete models."),
    "keys": lazy.Late("keys:keys", "Make, list, rotate and revoke API keys."),
    "check": lazy.Late("check:check", "Judge a version on your own data before it is deployed."),
    "profile": lazy.Late(
        "profile:profile", "Which operators take the time of a run, and what could be gained at most."
    ),
    "optimize": lazy.Late("optimize:optimize", "The best form of a version within a budget, or why to leave it alone."),
    "deploy": lazy.Late("deploy:deploy", "Have a version answer under a name, carefully."),
    "rollout": lazy.Late("rollout:rollout", "Watch a rollout; pause, resume, promote or abort it."),
    "rollback": lazy.Late("rollback:rollback", "Go back to what was live before."),
    "feedback": lazy.Late("feedback:feedback", "Tell how good answers turned out to be."),
    "audit": lazy.Late("audit:audit", "Who changed what, when and why; what was live when."),
    "up": lazy.Late("up:up", "The control plane and a server, in one command."),
    "doctor": lazy.Late("doctor:doctor", "Every default and its live value; what is wrong, and how to mend it."),
    "serve": lazy.Late("serve:serve", "Answer over HTTP with these versions."),
    "predict": lazy.Late("predict:predict", "Ask a model: a version here, or a server's URL."),
    "bench": lazy.Late("bench:bench", "Measure what a server carries, how quickly, and what that costs."),
}


@click.group(cls=lazy.Group, late=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", type=click.Path(path_type=Path), help="Where models are kept (WINDLASS_HOME; .windlass).")
@click.option("--config", type=click.Path(path_type=Path), help="The settings file (windlass.toml).")
@click.option("--server", metavar="URL", help="Act through this control plane, not on the home (WINDLASS_SERVER).")
@click.option("--json", "as_json", is_flag=True, help="Results as JSON on stdout.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.version_option(windlass.__version__, prog_name="windlass")
@click.pass_context
def cli(
    context: click.Context, home: Path | None, config: Path | None, server: str | None, as_json: bool, quiet: bool
) -> None:
    """Windlass takes a trained model to a monitored production endpoint."""
    from windlass import settings
    from windlass.cli import output

    loaded = settings.load({"home": home, "client.server": server}, file=config)
    context.obj = output.Context(loaded, json=as_json, quiet=quiet)


def main(arguments: list[str] | None = None) -> None:
    """Run, and end with the exit code that the error says."""
    code = run(arguments)
    # What was said holds: an interrupt while Python takes itself down must not turn success into a failure.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code. An error says what happened, why, and the next command to try."""
    try:
        result: Any = cli.main(arguments, prog_name="windlass", standalone_mode=False)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except (Exception, KeyboardInterrupt) as e:
        if _interrupted(e):
            click.echo("Interrupted: nothing was left half done.", err=True)
            return errors.Cancelled.exit_code
        if isinstance(e, errors.WindlassError):
            _complain(e)
            return e.exit_code
        if isinstance(e, click.ClickException):
            e.show()
            return e.exit_code
        if isinstance(e, OSError) and e.filename and e.strerror:
            refusal = errors.Unavailable(f"{e.filename}: {e.strerror}.", hint="Check the path, its owner and the disk.")
            _complain(refusal)
            return refusal.exit_code
        raise
    return result if isinstance(result, int) else 0


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it: one that comes while a library loads comes out as that library's own error."""
    while error is not None:
        if isinstance(error, (KeyboardInterrupt, click.exceptions.Abort)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _complain(error: errors.WindlassError) -> None:
    from windlass import settings
    from windlass.cli import output

    colour = None if settings.colours_wanted() else False
    click.secho("Error: ", fg="red", bold=True, nl=False, err=True, color=colour)
    click.echo(output.shown(error.message), err=True)
    if error.hint:
        click.echo(output.shown(error.hint), err=True)


if __name__ == "__main__":
    main()
