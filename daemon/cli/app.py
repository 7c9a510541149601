"""The table of all commands, and the exit codes of errors."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from daemon.cli import archive, context, init, listings, review, send, service, steer, top
from daemon.cli.connection import root
from daemon.cli.output import warn
from daemon.errors import ConfigError, DaemonUnreachableError, ErratadError, StoreUnavailableError

FAILED, USAGE, UNREACHABLE = 1, 2, 3
EXIT_CODES = """\b
Exit codes:
  0  done
  1  failed, or refused by the daemon
  2  wrong usage or configuration
  3  the daemon or its database cannot be reached

A command talks to the server of --server, --context, ERRATAD_SERVER or the current context (erratad context), with
the token in --token-file. Without a server it works on the store of a configuration: --config, else the variable
ERRATAD_CONFIG, else configs/default.yaml."""


class Commands(TyperGroup):
    """Prints an expected error as one message on stderr. Any other exception is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ErratadError as exc:
            warn(str(exc))
            raise typer.Exit(exit_code(exc)) from exc


def exit_code(error: ErratadError) -> int:
    if isinstance(error, ConfigError):
        return USAGE
    return UNREACHABLE if isinstance(error, StoreUnavailableError | DaemonUnreachableError) else FAILED


app = typer.Typer(
    cls=Commands,
    help="A daemon that lets a served chat model learn from the responses flagged by its users.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (
    init.init,
    service.run,
    service.check_config,
    service.vllm,
    listings.status,
    top.top,
    listings.reports,
    listings.lessons,
    listings.runs,
    listings.adapters,
    listings.audit,
    send.submit,
    send.import_file,
    steer.train,
    steer.induce,
    steer.promote,
    steer.reject,
    steer.rollback,
    steer.approve,
    steer.pause,
    steer.resume,
    steer.requeue,
    steer.evidence,
    steer.erase,
    steer.certificate,
    steer.original,
    service.schema,
    service.demo,
    service.files,
    service.version,
):
    app.command(command.__name__.removesuffix("_file").replace("_", "-"))(command)
app.add_typer(review.review)
app.add_typer(archive.archive)
app.add_typer(context.context)
app.callback()(root)
