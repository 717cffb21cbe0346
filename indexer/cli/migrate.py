"""`reya-indexer migrate`: migrate the schema of the database in DATABASE_URL, or of the embedded one."""

from __future__ import annotations

import json
from pathlib import Path

import click

from indexer import config
from indexer.cli.options import chain_option, data_dir_option, json_option, pg_bin_option
from indexer.cli.session import open_url
from indexer.errors import AdoptionRefusedError
from indexer.exit_codes import ExitCode
from indexer.runtime import secrets, signals
from indexer.schema import migrate, revisions


@click.command(
    "migrate",
    epilog="\b\nExample:\n  reya-indexer migrate --chain reya\n  reya-indexer migrate --check"
    "\n  reya-indexer migrate --downgrade base --yes\n  reya-indexer migrate --adopt --check",
)
@chain_option
@click.option("--to", "target", metavar="REV", help="Migrate up to this revision instead of the newest.")
@click.option(
    "--downgrade",
    "down",
    metavar="REV",
    help="Migrate down to this revision; `base` removes all of this program's tables.",
)
@click.option("--yes", is_flag=True, help="Confirm a downgrade: it drops tables and the rows in them.")
@click.option("--check", is_flag=True, help="Change nothing; show how the schema differs, and exit with 1 if it does.")
@click.option(
    "--adopt",
    is_flag=True,
    help="Work on a database whose tables were created by others (Prisma): existing tables stay as they are, missing"
    " ones are created. If that is impossible, exit with 23 and change nothing. With --check: only compare.",
)
@data_dir_option
@pg_bin_option
@json_option
def migrate_command(
    chain: str,
    target: str | None,
    down: str | None,
    yes: bool,
    check: bool,
    adopt: bool,
    data_dir: Path | None,
    pg_bin: Path | None,
    as_json: bool,
) -> None:
    """Create the tables, or upgrade them to this release's schema. Refuses databases that are not this program's."""
    if sum((target is not None, down is not None, check or adopt)) > 1:
        raise click.UsageError("--to, --downgrade, and --check or --adopt are mutually exclusive.")
    for option, revision, other in (("--to", target, "head"), ("--downgrade", down, "base")):
        if revision is not None and revision not in revisions.known_revisions() | {other}:
            known = ", ".join((*sorted(revisions.known_revisions()), other))
            raise click.BadParameter(f"no schema revision {revision!r}. Known: {known}", param_hint=option)
    if down is not None and not yes:
        raise click.UsageError("--downgrade drops tables and their rows: add --yes to confirm.")
    url = open_url(config.load(chain).name, data_dir, pg_bin)
    if adopt:
        _adopt(url, check, as_json)
        return
    if check:
        _check(url, as_json)
        return
    before = signals.run(revisions.revision_of(url))
    if down is not None:
        migrate.downgrade(url, down)
    else:
        migrate.upgrade(url, target or "head")
    _report(url, before, signals.run(revisions.revision_of(url)), as_json)


def _report(url: str, before: str | None, after: str | None, as_json: bool) -> None:
    if as_json:
        head = revisions.head_revision()
        click.echo(json.dumps({"database": secrets.redact(url), "from": before, "to": after, "head": head}))
    elif before == after:
        click.echo(f"{secrets.redact(url)}: schema revision {after or 'none'}, nothing to do")
    else:
        click.echo(f"{secrets.redact(url)}: schema revision {before or 'none'} -> {after or 'none'}")


def _check(url: str, as_json: bool) -> None:
    differences = migrate.check(url)
    if as_json:
        head = revisions.head_revision()
        click.echo(json.dumps({"database": secrets.redact(url), "head": head, "differences": differences}))
    else:
        for line in differences or [
            f"{secrets.redact(url)}: schema as revision {revisions.head_revision()} describes it"
        ]:
            click.echo(line)
    if differences:
        raise click.exceptions.Exit(ExitCode.UNEXPECTED)


def _adopt(url: str, dry_run: bool, as_json: bool) -> None:
    differences = migrate.adopt(url, dry_run=dry_run)
    blocking = [difference for difference in differences if difference.blocks]
    done = not dry_run and not blocking
    if as_json:
        head = revisions.head_revision()
        answer = {"database": secrets.redact(url), "head": head, "adopted": done}
        shown = [{"table": d.table, "what": d.what, "blocks": d.blocks, "remedy": d.remedy} for d in differences]
        click.echo(json.dumps(answer | {"differences": shown}))
    else:
        width = max((len(d.table) for d in differences), default=0)
        for d in differences:
            click.echo(f"{'BLOCKS' if d.blocks else 'differs':8} {d.table:{width}}  {d.what}")
        remedies = [d.remedy for d in blocking if d.remedy]
        if remedies:
            click.echo(
                "\n".join(("", "-- what the owner of the tables can do about it, if nothing of theirs needs it:"))
            )
            click.echo("\n".join(remedies))
        if done:
            click.echo(f"{secrets.redact(url)}: adopted at schema revision {revisions.head_revision()}")
        elif not blocking:
            click.echo(f"{secrets.redact(url)}: can be adopted")
    if blocking:
        remedy = "Nothing was changed. Change the tables, or use a separate database for this program"
        raise AdoptionRefusedError(
            f"{secrets.redact(url)}: cannot be adopted: {len(blocking)} blocking differences", remedy
        )
