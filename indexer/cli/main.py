"""Entry point of the command line. An IndexerError ends as one line on stderr and its exit code (indexer/errors.py)."""

from __future__ import annotations

import errno
import gc
import importlib
import sys
from typing import Any

import click

from indexer import __version__
from indexer.errors import DatabaseUnreachableError, IndexerError
from indexer.exit_codes import ExitCode
from indexer.runtime import shell
from indexer.runtime.signals import handle_signals

# Modules are imported on demand: `decode` and `config` need neither a database driver nor migrations.
_COMMANDS = {
    "run": "indexer.cli.run:run_command",
    "backfill": "indexer.cli.backfill:backfill_command",
    "reproject": "indexer.cli.reproject:reproject_command",
    "verify": "indexer.cli.verify:verify_command",
    "check": "indexer.cli.check:check_command",
    "enrich": "indexer.cli.enrich:enrich_command",
    "status": "indexer.cli.status:status_command",
    "endpoints": "indexer.cli.endpoints:endpoints_command",
    "doctor": "indexer.cli.doctor:doctor_command",
    "incidents": "indexer.cli.incidents:incidents_group",
    "reorg": "indexer.cli.reorg:reorg_group",
    "stream": "indexer.cli.stream:stream_group",
    "decode": "indexer.cli.decode:decode_command",
    "migrate": "indexer.cli.migrate:migrate_command",
    "db": "indexer.cli.db:db_group",
    "config": "indexer.cli.config:config_group",
}

EXIT_CODES = """\b
Exit codes:
    0 success
    1 unexpected error
    2 wrong flags
   10 broken configuration
   11 no endpoint reachable
   12 wrong chain
   13 not our database
   14 another deployment's database
   15 schema newer than program
   16 schema older: migrate
   17 port in use
   18 database unreachable
   19 embedded PostgreSQL failed
   20 unreadable input
   21 stored data from another configuration
   22 stored rows damaged: reorg verify
   23 migrate --adopt: tables do not fit
   24 database refuses: right, trigger, constraint
   30 verify, reorg verify: differences found
   31 reorg recover, verify, incidents: refused
   32 no endpoint serves the range or state
   33 check: drift found
   34 verify: part of it keeps its grade
   36 doctor: something to fix
   70 fork below finalized
   75 another process projects
  130 interrupted by Ctrl-C or SIGTERM
  141 the reader of stdout closed it"""


class _Commands(click.Group):
    """Commands by name, imported at first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the help text."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None if there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        gc.disable()  # Imports create no garbage, and looking for it takes a tenth of the start-up time.
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        finally:
            gc.enable()
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. A closed pipe has an exit code of its own; click and rich would end with 1."""
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, SystemExit) as error:
            if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
                raise
            raise click.exceptions.Exit(ExitCode.STDOUT_CLOSED) from None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=f"\b\nExample:\n  REYA_RPC_URL=http://localhost:8547 reya-indexer run --chain reya\n\n{EXIT_CODES}",
)
@click.version_option(__version__, prog_name="reya-indexer")
def cli() -> None:
    """Follow the Reya DEX contracts and keep a PostgreSQL database equal to the canonical chain."""


def main() -> None:
    """Run the console script."""
    handle_signals()
    shell.open_standard_streams()
    shell.replace_what_cannot_be_encoded()
    shell.remove_pg_variables()
    code = _run()
    shell.discard_unwritable()
    sys.exit(code)


def _run() -> int:
    """Run the command that was asked for, and return the exit code."""
    try:
        # Outside standalone mode, click returns the code of an Exit; commands return nothing.
        code = cli.main(prog_name="reya-indexer", standalone_mode=False)
        sys.stdout.flush()  # Here, where an answer that cannot be written still ends with a line.
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        shell.write_error("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.STDOUT_CLOSED
    except IndexerError as error:
        shell.write_error(f"error: {error}")
        return error.exit_code
    except Exception as error:
        if (known := _as_database_error(error) or _as_file_error(error)) is None:
            raise
        shell.write_error(f"error: {known}")
        return known.exit_code


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def _as_file_error(error: Exception) -> IndexerError | None:
    """Map an error of a file or of stdout to a one-line error; None for anything that deserves a traceback."""
    if not isinstance(error, OSError):
        return None
    if error.filename is not None:
        return IndexerError(f"{error.filename}: {error.strerror}", "Check the path, its permissions and the free space")
    if error.errno in _FULL:
        return IndexerError(f"stdout: {error.strerror}", "Free some space, or write the answer elsewhere")
    return None


def _as_database_error(error: Exception) -> IndexerError | None:
    """Map a PostgreSQL error with a known cause to a one-line error; None for anything that deserves a traceback.

    The driver is looked up in `sys.modules`, so that commands without a database do not load it.
    """
    driver = sys.modules.get("asyncpg")
    if driver is None or not isinstance(
        error, driver.PostgresError | driver.InterfaceError | driver.InternalClientError
    ):
        return None
    from indexer.db.database_errors import database_wait_name, is_ours
    from indexer.db.refusals import refusal

    if is_ours(error):
        return None
    remedy = "`reya-indexer doctor` shows what to check"
    return refusal(error) or DatabaseUnreachableError(f"{database_wait_name(error)}: {error}", remedy)


if __name__ == "__main__":
    main()
