"""Checks of the database for `doctor`, as the role that the indexer uses sees it. They change nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg

from indexer.config import Deployment
from indexer.db.connection import SETTINGS, Connection, connection
from indexer.db.database_errors import database_wait_name
from indexer.errors import DatabaseUnreachableError, WriteInterceptedError, WrongDeploymentError
from indexer.ops.doctor.findings import FREE_SHARE, DoctorFinding, DoctorFindings
from indexer.ops.doctor.table_checks import check_hindrances, check_publications, check_tables
from indexer.runtime.secrets import redact
from indexer.schema import revisions
from indexer.store.index_state import binding, check_binding

OLDEST = 140_000  # Oldest supported server (server_version_num).
CONNECTIONS = 10  # That should be free.
CLOCK = 5.0  # Largest difference between the two clocks that is not reported (s).
LISTED = 5  # Missing rights that are named.

_OVERRIDES = """
SELECT COALESCE(r.rolname, 'every role'), COALESCE(d.datname, 'every database'), split_part(c.setting, '=', 2)
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase,
  unnest(s.setconfig) AS c(setting)
WHERE lower(split_part(c.setting, '=', 1)) = 'timezone' AND (d.datname IS NULL OR d.datname = current_database())
"""
# Limits of a role or database that the sessions do not set themselves, because not every server knows them; and what
# they must not be below (ms): the longest step, and the longest pause between two attempts.
_OTHER_LIMITS = {"transaction_timeout": 3_600_000, "idle_session_timeout": 300_000}
_UTC = ("utc", "etc/utc", "gmt", "etc/gmt", "uct", "zulu")


async def examine_database(deployment: Deployment, url: str) -> list[DoctorFinding]:
    """Return the findings about the database; only one if it cannot be reached."""
    found = DoctorFindings(redact(url))
    try:
        async with connection(url) as conn:
            for look in (
                _version,
                _writable,
                _schema,
                _rights,
                check_hindrances,
                check_tables,
                check_publications,
                _durable,
                _connections,
                _session,
                _time,
                _disk,
            ):
                try:
                    await look(conn, found, deployment)
                except WriteInterceptedError as error:
                    found.fix(_name(look), error.message, error.remedy)
                except asyncpg.InsufficientPrivilegeError as error:
                    found.fix(_name(look), str(error), "`reya-indexer db roles` makes a writer that has every right")
                except asyncpg.PostgresError as error:
                    found.fix(_name(look), " ".join(str(error).split()), "See the server's log")
    except DatabaseUnreachableError as error:
        found.fix("answers", f"{database_wait_name(error)}: {error.message}", error.remedy)
    return found.items


def _name(look: Callable[..., object]) -> str:
    return look.__name__.removeprefix("check").strip("_")


async def _version(conn: Connection, found: DoctorFindings, _: Deployment) -> None:
    number = int(await conn.fetchval("SHOW server_version_num"))
    text = await conn.fetchval("SHOW server_version")
    if number < OLDEST:
        found.fix("version", f"PostgreSQL {text}", "Use PostgreSQL 14 or newer")
    else:
        found.good("version", f"PostgreSQL {text}")
    encoding = await conn.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        found.fix("encoding", encoding, "Make the database with ENCODING 'UTF8'")


async def _writable(conn: Connection, found: DoctorFindings, _: Deployment) -> None:
    standby, read_only = await conn.fetchrow(
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'"
    ) or (False, False)
    if standby:
        found.fix("writable", "is a standby", "Name the primary in DATABASE_URL, or target_session_attrs=read-write")
    elif read_only:
        found.fix("writable", "is read-only", "Reset default_transaction_read_only of the server, database or role")
    else:
        found.good("writable", "yes")


async def _schema(conn: Connection, found: DoctorFindings, deployment: Deployment) -> None:
    kind, head = await revisions.classify(conn), revisions.head_revision()
    if kind == "foreign":
        found.fix(
            "schema",
            "holds tables that are not this program's",
            "Name an empty database in DATABASE_URL, or see `migrate --adopt --check`",
        )
        return
    if kind == "empty":
        found.good("schema", "empty: the first `run` or `backfill` makes the tables")
        return
    revision = await revisions.current_revision(conn)
    if revision == head:
        found.good("schema", f"revision {revision}")
    elif revision in revisions.known_revisions():
        found.fix("schema", f"revision {revision}, this release needs {head}", "Run `reya-indexer migrate`")
        return
    else:
        found.fix("schema", f"revision {revision} is newer than this release", "Run the newer release")
        return
    bound = await binding(conn)
    if bound is not None:
        try:
            check_binding(bound, deployment.name, deployment.chain_id)
            found.good("deployment", f"{bound.name}, chain {bound.chain_id}, from block {bound.origin}")
        except WrongDeploymentError as error:
            found.fix("deployment", error.message, error.remedy)


async def _rights(conn: Connection, found: DoctorFindings, _: Deployment) -> None:
    role = await conn.fetchval("SELECT current_user")
    lacking = []
    if await revisions.classify(conn) != "ours":
        if not await conn.fetchval("SELECT has_database_privilege(current_database(), 'CREATE')"):
            lacking.append("CREATE on the database")
    else:
        from indexer.schema import roles  # Imported here because it loads SQLAlchemy.

        lacking += await roles.missing_rights(conn)
    if lacking:
        more = f" and {len(lacking) - LISTED} more" if len(lacking) > LISTED else ""
        remedy = f"`reya-indexer db roles` makes a writer that has them; or GRANT them to {role}"
        found.fix("rights", f"role {role} lacks {'; '.join(lacking[:LISTED])}{more}", remedy)
    else:
        found.good("rights", f"role {role} may do what it must")


async def _durable(conn: Connection, found: DoctorFindings, _: Deployment) -> None:
    for name in ("fsync", "full_page_writes"):
        if await conn.fetchval("SELECT current_setting($1)", name) != "on":
            found.fix(
                name, "off: a crash of the machine damages the database", f"ALTER SYSTEM RESET {name}, and restart"
            )
    if await conn.fetchval("SELECT current_setting('synchronous_commit')") == "off":
        found.note("synchronous_commit", "off: a crash forgets the newest commits; the indexer reads them again")


async def _connections(conn: Connection, found: DoctorFindings, _: Deployment) -> None:
    limits = await conn.fetchrow(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,"
        " (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),"
        " (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),"
        " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),"
        " (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()),"
        " (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user)"
    )
    assert limits is not None
    free = min(limit - used for limit, used in zip(limits[:3], limits[3:], strict=True) if limit >= 0)
    if free < CONNECTIONS:
        found.fix("connections", f"{free} are free; a catch-up takes five, each worker one more",
                  "Raise max_connections, or the CONNECTION LIMIT of the role or the database")  # fmt: skip
    else:
        found.good("connections", f"{free} are free")


async def _session(conn: Connection, found: DoctorFindings, _: Deployment) -> None:
    """Check that the session's own limits hold: a pooler, or a trigger at login, may drop them."""
    is_kept = {
        name: await conn.fetchval(
            "SELECT current_setting($1) = set_config($1, $2, true)", name, value
        ) for name, value in SETTINGS.items() if name != "application_name"
    }  # fmt: skip
    limits = await conn.fetch(
        "SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[]) AND setting <> '0'", list(_OTHER_LIMITS)
    )
    too_low = [(name, setting) for name, setting in limits if int(setting) < _OTHER_LIMITS[name]]
    for name, setting in too_low:
        found.fix("settings", f"{name} is {setting} ms: what takes longer is ended, again and again",
                  f"ALTER ROLE ... RESET {name}, or ALTER DATABASE ... RESET {name}")  # fmt: skip
    dropped = [name for name, kept in is_kept.items() if not kept]
    if dropped:
        found.fix("settings", f"{', '.join(dropped)}: not what this session asked for",
                  "Connect to PostgreSQL itself, or by a pooler that keeps a session's settings")  # fmt: skip
    elif not too_low:
        found.good("settings", "time-outs and time zone of the session are as asked for")


async def _time(conn: Connection, found: DoctorFindings, _: Deployment) -> None:
    wrong = [
        (role, database, zone) for role, database, zone in await conn.fetch(_OVERRIDES) if zone.lower() not in _UTC
    ]
    for role, database, zone in wrong:
        found.fix("time zone", f"{role} reads {database} in {zone}; the tables are in UTC",
                  f"ALTER ROLE ... RESET TimeZone, or SET TimeZone = 'UTC', for {role}")  # fmt: skip
    if not wrong:
        found.good("time zone", "UTC, and no role overrides it")
    apart = float(await conn.fetchval("SELECT extract(epoch FROM clock_timestamp())")) - time.time()
    if abs(apart) > CLOCK:
        found.note("clock", f"the server's is {apart:+.1f} s apart from this machine's", "Set both by NTP")


async def _disk(conn: Connection, found: DoctorFindings, _: Deployment) -> None:
    size = await conn.fetchval("SELECT pg_database_size(current_database())")
    used = f"the database has {size / 2**30:.2f} GiB"
    # Only members of pg_read_all_settings may see it; the writer needs not be one.
    visible = await conn.fetchval("SELECT pg_has_role('pg_read_all_settings', 'MEMBER')")
    folder = await conn.fetchval("SELECT current_setting('data_directory', true)") if visible else None
    if not folder or not _is_local(Path(folder)):
        found.note("disk", f"{used}; free space cannot be seen from here", "Watch it on the server")
        return
    usage = shutil.disk_usage(folder)
    free = f"{usage.free / 2**30:.1f} GiB of {usage.total / 2**30:.0f} GiB are free"
    if usage.free < FREE_SHARE * usage.total:
        found.fix("disk", f"{used}, {free}", "Make room: a log takes about 1.8 kB with its rows and indexes")
    else:
        found.good("disk", f"{used}, {free}")


def _is_local(folder: Path) -> bool:
    """Return whether the server's folder is on this machine. The path must exist and hold a cluster."""
    try:
        return os.path.isdir(folder) and (folder / "PG_VERSION").exists()
    except OSError:
        return False
