"""`reya-indexer reorg plan|recover|verify`: recovery by hand, if the daemon refuses to recover or to be sure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from indexer import config
from indexer.attest.compare import compare_stored, ranges
from indexer.attest.evidence import Comparison
from indexer.cli.options import (
    Integer,
    chain_option,
    check_order,
    data_dir_option,
    first_option,
    json_option,
    last_option,
    log_format_option,
    pg_bin_option,
    rpc_option,
)
from indexer.cli.progress_bars import stderr_is_terminal
from indexer.cli.session import (
    check_stored,
    checked_connection,
    errors_as_json,
    open_pool,
    open_url,
    rpc_endpoints,
)
from indexer.errors import ExitCode
from indexer.reorg.heal import Trusted, heal_range
from indexer.reorg.plan import Plan
from indexer.reorg.recovery import Recovery
from indexer.runtime import log_setup, signals
from indexer.runtime.tasks import in_thread

MAX_LISTED = 100

to_block_option = click.option(
    "--to-block", type=Integer(0), metavar="N", help="Last block to keep. Default: the fork point."
)


@contextlib.asynccontextmanager
async def _recovery(
    chain: str, rpc_urls: tuple[str, ...], data_dir: Path | None, pg_bin: Path | None
) -> AsyncIterator[Recovery]:  # fmt: skip
    deployment = config.load(chain)
    urls = rpc_endpoints(deployment, rpc_urls)
    async with open_pool(deployment, urls) as pool:
        url = await in_thread(open_url, deployment.name, data_dir, pg_bin)
        async with checked_connection(url, deployment) as conn:
            yield Recovery(deployment, pool, conn)


def _run(as_json: bool, work: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, Any]:
    with errors_as_json(as_json):
        return signals.run(work())


@click.command(
    "plan",
    epilog="\b\nExamples:\n  reya-indexer reorg plan\n"
    "  reya-indexer reorg plan --to-block 1200000 --json | jq -r .plan_hash",
)
@chain_option
@to_block_option
@rpc_option
@data_dir_option
@pg_bin_option
@log_format_option
@json_option
def plan_command(
    chain: str, to_block: int | None, rpc_urls: tuple[str, ...], data_dir: Path | None, pg_bin: Path | None,
    log_format: log_setup.LogFormat, as_json: bool,
) -> None:  # fmt: skip
    """Show what `recover` would do, and change nothing.

    Compares the stored chain with every endpoint, however deep they diverge, and reads the replacement to count its
    rows. Exits with 0 whenever a plan could be made.
    """
    log_setup.configure(log_format)

    async def work() -> dict[str, Any]:
        async with _recovery(chain, rpc_urls, data_dir, pg_bin) as recovery:
            return await _as_json(recovery, await recovery.plan(to_block))

    answer = _run(as_json, work)
    click.echo(json.dumps(answer)) if as_json else _print_plan(answer, chain, to_block)


async def _as_json(recovery: Recovery, plan: Plan) -> dict[str, Any]:
    state = await recovery.state()
    tables, exact = await recovery.count_changes(plan)
    before = state.checkpoint.number if state.checkpoint else None
    after = before
    if before is not None and not plan.empty:
        after = plan.upto if before > plan.keep.number else before
    return {
        "plan_hash": plan.plan_hash,
        "fork_point": plan.fork.number,
        "to_block": plan.keep.number,
        "to_block_hash": "0x" + plan.keep.hash.hex(),
        "nothing_to_do": plan.empty,
        "below_finalized": state.predates_before_images(plan.keep.number),
        "tables": tables,
        "exact": exact,
        "tip": plan.tip.number,
        "new_tip": plan.upto,
        "checkpoint": {"before": before, "after": after},
        "epoch": state.epoch,
        "endpoint": plan.endpoint,
        "endpoints": [report.as_json() for report in plan.reports],
    }


def _print_plan(answer: dict[str, Any], chain: str, to_block: int | None) -> None:
    console = Console()
    for report in answer["endpoints"]:
        where = report["error"] or f"head {report['head']}, on the stored chain up to block {report['fork_point']}"
        console.print(f"{report['endpoint']}: {where}", highlight=False)
    console.print(f"fork point      {answer['fork_point']}")
    console.print(f"last block kept {answer['to_block']}  {answer['to_block_hash']}")
    console.print(f"tip             {answer['tip']} -> {answer['new_tip']}")
    console.print(f"checkpoint      {answer['checkpoint']['before']} -> {answer['checkpoint']['after']}")
    if answer["nothing_to_do"]:
        console.print("Nothing to do: the stored chain is the endpoints' chain.")
        return
    table = Table("table", "removed", "inserted", "difference")
    for name, counts in answer["tables"].items():
        table.add_row(name, str(counts["removed"]), str(counts["inserted"]), f"{counts['difference']:+d}")
    console.print(table)
    if answer["below_finalized"]:
        console.print("Below finalized: touched rows are replayed from their first event; state counts are estimates.")
    kept = f" --to-block {to_block}" if to_block is not None else ""
    click.echo(f"To execute it: reya-indexer reorg recover --chain {chain}{kept} --confirm {answer['plan_hash']}")


@click.command(
    "recover",
    epilog="\b\nExamples:\n  reya-indexer reorg recover --confirm 5f0c...\n"
    "  reya-indexer reorg recover --to-block 1200000 --confirm 5f0c... --dry-run",
)
@chain_option
@to_block_option
@click.option("--confirm", metavar="PLAN_HASH", required=True, help="Plan hash that `reorg plan` printed.")
@click.option("--dry-run", is_flag=True, help="Check the hash and show what would be done; change nothing.")
@rpc_option
@data_dir_option
@pg_bin_option
@log_format_option
@json_option
def recover_command(
    chain: str, to_block: int | None, confirm: str, dry_run: bool, rpc_urls: tuple[str, ...], data_dir: Path | None,
    pg_bin: Path | None, log_format: log_setup.LogFormat, as_json: bool,
) -> None:  # fmt: skip
    """Execute exactly the confirmed plan, in one commit. A running daemon pauses meanwhile.

    Exits with 0 if it succeeded or there was nothing to do, 31 if the plan is no longer the confirmed one or another
    process is at work, 32 if no endpoint serves the blocks. Whatever the code, nothing is left half done.
    """
    log_setup.configure(log_format)

    async def work() -> dict[str, Any]:
        async with _recovery(chain, rpc_urls, data_dir, pg_bin) as recovery:
            if dry_run:
                return {"dry_run": True} | await _as_json(recovery, await recovery.check(to_block, confirm))
            plan, result = await recovery.recover(to_block, confirm)
            state = await recovery.state()
            return {
                "dry_run": False,
                "plan_hash": plan.plan_hash,
                "fork_point": plan.fork.number,
                "to_block": plan.keep.number,
                "changed": result is not None,
                "rows": result.rows if result else {},
                "logs": result.logs if result else 0,
                "tip": state.tip.number if state.tip else None,
                "projected": state.checkpoint.number if state.checkpoint else None,
                "epoch": state.epoch,
            }

    answer = _run(as_json, work)
    if as_json:
        click.echo(json.dumps(answer))
    elif dry_run:
        _print_plan(answer, chain, to_block)
    elif not answer["changed"]:
        click.echo("Nothing to do: the stored chain is the endpoints' chain.")
    else:
        click.echo(
            f"recovered: kept block {answer['to_block']}, read {answer['logs']} logs again, projected up to"
            f" {answer['projected']}; `reya-indexer reorg list` has the entry"
        )


@click.command(
    "verify",
    epilog="\b\nExamples:\n  reya-indexer reorg verify --from 1000000 --to 1100000\n"
    "  reya-indexer reorg verify --heal --json",
)
@chain_option
@first_option
@last_option
@click.option(
    "--heal", is_flag=True, help="Read the differing blocks again, and correct every row that depends on them."
)
@rpc_option
@data_dir_option
@pg_bin_option
@log_format_option
@json_option
def verify_command(
    chain: str, first: int | None, last: int | None, heal: bool, rpc_urls: tuple[str, ...], data_dir: Path | None,
    pg_bin: Path | None, log_format: log_setup.LogFormat, as_json: bool,
) -> None:  # fmt: skip
    """Compare stored block hashes and raw logs with the chain.

    Goes up to finalized. Exits with 0 if everything matches or was healed, 30 if differences were found, 32 if no
    endpoint serves the range. It trusts the endpoint's answers: a log that a node omits also looks like one that is not
    on the chain.
    """
    log_setup.configure(log_format)
    check_order(first, last)

    async def work() -> dict[str, Any]:
        async with _recovery(chain, rpc_urls, data_dir, pg_bin) as recovery:
            return await _verify(recovery, first, last, heal)

    answer = _run(as_json, work)
    click.echo(json.dumps(answer)) if as_json else _print_verified(answer, chain)
    if answer["count"] and not heal:
        raise click.exceptions.Exit(ExitCode.DIFFERENCES)


async def _verify(recovery: Recovery, first: int | None, last: int | None, heal: bool) -> dict[str, Any]:
    state = await recovery.state()
    assert state.tip is not None
    final = min((await recovery.look()).finalized, state.tip.number)
    low = state.binding.origin if first is None else first
    high = final if last is None else min(last, final)
    check_stored(low, high)
    answer: dict[str, Any] = {
        "from_block": low, "to_block": high, "clamped": last is not None and last > final, "logs": 0, "count": 0,
        "differences": [], "healed": [],
    }  # fmt: skip
    differing: list[Comparison] = []
    with Bar(console=Console(stderr=True), disable=not stderr_is_terminal(), transient=True) as bar:
        task = bar.add_task("compared", total=max(1, high - low + 1))
        async for part in compare_stored(recovery.conn, recovery.pool, state, low, high):
            bar.update(task, completed=part.segment.last - low + 1)
            answer["logs"] += len(part.read)
            answer["count"] += len(part.differences)
            answer["differences"] += [d._asdict() for d in part.differences][: MAX_LISTED - len(answer["differences"])]
            differing += [part] if part.differences else []
    for part in differing if heal else []:
        for segment in ranges(part.segment, part.differences):
            cause = f"reorg verify found {len(part.differences)} differences"
            result = await heal_range(recovery, segment, cause, Trusted(recovery.pool))
            answer["healed"].append({"from_block": segment.first, "to_block": segment.last, "rows": result.rows})
    return answer


def _print_verified(answer: dict[str, Any], chain: str) -> None:
    span = f"blocks {answer['from_block']} to {answer['to_block']}"
    if answer["clamped"]:
        click.echo(f"blocks above finalized ({answer['to_block']}) are the daemon's; left out", err=True)
    if not answer["count"]:
        click.echo(f"{span}: {answer['logs']} logs, all as on the chain")
        return
    for difference in answer["differences"]:
        index = "" if difference["log_index"] is None else f", log {difference['log_index']}"
        click.echo(f"block {difference['block']}{index}: {difference['what']}")
    if answer["count"] > len(answer["differences"]):
        click.echo(f"... and {answer['count'] - len(answer['differences'])} more")
    if answer["healed"]:
        click.echo(f"{span}: {answer['count']} differences, healed in {len(answer['healed'])} ranges")
    else:
        flags = f"--chain {chain} --from {answer['from_block']} --to {answer['to_block']}"
        click.echo(f"{span}: {answer['count']} differences. To heal them: reya-indexer reorg verify {flags} --heal")
