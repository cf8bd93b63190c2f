"""The entry point: commands are imported when they are called, errors become words and exit codes."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence

import click

from smeta_declare import __version__
from smeta_declare.cli.app import App
from smeta_declare.cli.views import show_bug, show_error, talk
from smeta_declare.diagnostics import nearest
from smeta_declare.errors import Exit, SmetaError, Stopped, UsageError

# Verb → module and one line of help. The modules are imported when the verb is called.
COMMANDS = {
    "new": ("new", "Write the next migration and list it in the manifest."),
    "validate": ("validate", "Check manifest and migrations; no database is asked."),
    "schema": ("schema", "Print the JSON Schema of the manifest."),
    "config": ("config", "Show the effective settings of an environment."),
    "render": ("render", "Show or write the SQL of an environment; no database is asked."),
    "plan": ("plan", "Show what apply would do."),
    "show": ("show", "Show a saved plan; no database is asked."),
    "apply": ("apply", "Apply every pending migration."),
    "rollback": ("rollback", "Undo migrations, the last applied one first."),
    "status": ("status", "Show what is applied and what is pending."),
    "history": ("history", "List applied migrations in the order of application."),
    "verify": ("verify", "Ask validations, checks and checksums again; nothing is changed."),
    "doctor": ("doctor", "Find what would get in the way of a migration; nothing is changed."),
    "backup": ("backup", "List and take backups."),
    "tenants": ("tenants", "List, register and show tenants."),
    "db": ("db", "Start, stop and reach the embedded server."),
    "version": ("version", "Print the version."),
}
ALIASES = {"generate": "new", "migrate": "apply"}  # the words of migration-manager.js


class LazyGroup(click.Group):
    """A group that knows its commands by name only until one of them is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"smeta_declare.commands.{COMMANDS[name][0]}")
        command = module.command
        if not isinstance(command, click.Command):
            raise TypeError(f"{module.__name__}.command is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        with formatter.section("Aliases"):
            formatter.write_dl([(alias, f"the same as `{name}`") for alias, name in ALIASES.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--manifest",
    "-f",
    envvar="SMETA_MANIFEST",
    metavar="FILE",
    help="The manifest; default: smeta.yaml, found upwards from here.",
)
@click.option(
    "--no-input", is_flag=True, envvar="SMETA_NO_INPUT", help="Never ask; refuse where consent is missing."
)
@click.option("-v", "--verbose", is_flag=True, help="Tell more: every statement, and the traceback of a bug.")
@click.option("-q", "--quiet", is_flag=True, help="Tell errors only.")
@click.option(
    "--log-file",
    envvar="SMETA_LOG_FILE",
    metavar="FILE",
    help="Where the events go as JSON lines; default: migration.log beside the manifest.",
)
@click.version_option(__version__, prog_name="smeta")
@click.pass_context
def cli(
    ctx: click.Context,
    /,
    manifest: str | None,
    log_file: str | None,
    *,
    no_input: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Declarative PostgreSQL migrations: a manifest, a plan, and an executor that keeps its word.

    Begin with `smeta plan --env dev`, then `smeta apply --env dev`.
    """
    ctx.obj = App(
        manifest_option=manifest,
        log_option=log_file,
        environ=dict(os.environ),
        interactive=not no_input and sys.stdin.isatty(),
        verbose=verbose,
        quiet=quiet,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with the exit code that DESIGN gives the outcome."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    # A job runner ends us with SIGTERM, a closed terminal with SIGHUP: both leave like Ctrl-C, rolled back.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    verbose = any(a in ("-v", "--verbose") for a in (sys.argv[1:] if arguments is None else arguments))
    try:
        outcome = cli.main(args=arguments, prog_name="smeta", standalone_mode=False)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.exceptions.NoArgsIsHelpError as bare:
        talk(bare.ctx.get_help() if bare.ctx else "")
        return Exit.USAGE
    except click.UsageError as error:
        show_error(_usage(error))
        return Exit.USAGE
    except click.ClickException as error:
        error.show()
        return Exit.FAILED
    except (click.Abort, KeyboardInterrupt):
        show_error(
            Stopped("stopped by a signal", hint="`smeta status --env NAME` tells where the database stands")
        )
        return Exit.RETRY
    except BrokenPipeError:
        # Whoever read our output has left: nobody to tell, and nothing of the database depends on it.
        sys.stdout = None  # keeps the interpreter from flushing into the pipe again
        return Exit.FAILED
    except SmetaError as error:
        show_error(error)
        return error.exit_code
    except OSError as error:
        show_error(
            SmetaError(f"{error.filename or 'a file'}: {error.strerror}", hint="look at its permissions")
        )
        return Exit.FAILED
    except Exception as error:
        show_bug(error, verbose=verbose)
        return Exit.BUG
    return outcome if isinstance(outcome, int) else Exit.DONE


def _usage(error: click.UsageError) -> UsageError:
    """A mistake on the command line in our words; click's own have the option and what it takes."""
    where = error.ctx.command_path if error.ctx else "smeta"
    hint = f"`{where} --help` lists what there is"
    if isinstance(error, click.MissingParameter) and error.param and error.param.name == "environment":
        return UsageError("no environment is named", hint="give --env NAME, or set SMETA_ENV")
    words = (*COMMANDS, *ALIASES) if isinstance(error.ctx, click.Context) and error.ctx.parent is None else ()
    asked = re.search(r"No such command '(.*)'", error.format_message())
    if asked and (close := nearest(asked[1], words)):
        hint = f"did you mean `smeta {close}`?"
    if isinstance(error, click.NoSuchOption) and error.ctx and error.ctx.parent is not None:
        above = {option for parameter in cli.params for option in parameter.opts}
        if error.option_name in above:
            hint = f"it goes before the verb: smeta {error.option_name} …"
    return UsageError(error.format_message().rstrip("."), hint=hint)
