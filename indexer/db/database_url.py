"""What a database URL may say: the parameters of libpq and of Prisma, as people copy them. Pure.

A parameter that changes nothing for this program is taken and left out; one that asks for what it cannot do is refused
by name. Everything else goes to the server as a setting, as asyncpg does it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from indexer.errors import ConfigError

# Read by asyncpg. https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_LIBPQ = frozenset(
    ["host", "port", "user", "password", "dbname", "passfile", "options", "application_name", "target_session_attrs",
     "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation",
     "ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"]
)  # fmt: skip
# Known to libpq, and without effect here: how a connection is kept alive or secured where both sides may choose.
_LIBPQ_IGNORED = frozenset(
    ["keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "sslsni",
     "sslcompression", "fallback_application_name", "client_encoding", "load_balance_hosts",
     "gssdelegation", "replication"]
)  # fmt: skip
# Of Prisma: the size and the habits of its own pool. https://www.prisma.io/docs/orm/overview/databases/postgresql
_PRISMA_IGNORED = frozenset(
    ["connection_limit", "pool_timeout", "pgbouncer", "socket_timeout", "max_idle_connection_lifetime",
     "max_connection_lifetime", "statement_cache_size"]
)  # fmt: skip
_IGNORED = _LIBPQ_IGNORED | _PRISMA_IGNORED
# Of these, only values that demand nothing are read over.
_OPTIONAL = {
    "channel_binding": ("disable", "prefer"), "gssencmode": ("disable", "prefer"), "sslcertmode": ("disable", "allow"),
    "sslaccept": ("accept_invalid_certs",),
}  # fmt: skip
_REFUSED = {
    "hostaddr": "Write the address in place of the host name",
    "service": "Write host, port and database into the URL: where we work must not depend on a file of this machine",
    "servicefile": "Write host, port and database into the URL",
    "sslidentity": "Write sslcert and sslkey",
    "require_auth": "Remove it, and have the server's pg_hba.conf demand the method",
}


class DatabaseUrl(NamedTuple):
    """A URL for asyncpg, and the time that the URL gives a connection attempt (s; None: it says nothing)."""

    url: str
    connect_timeout_s: float | None


def read_url(url: str) -> DatabaseUrl:
    """Return the URL without what changes nothing. Raises ConfigError, which names the parameter."""
    kept: list[tuple[str, str]] = []
    timeout: float | None = None
    for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name == "connect_timeout":
            timeout = _seconds(value)
        elif name == "schema":
            _check_schema(value)
        elif name in _OPTIONAL:
            if value not in _OPTIONAL[name]:
                raise _refusal(
                    name, value, f"Write {name}={_OPTIONAL[name][-1]}; to verify the server: sslmode=verify-full"
                )
        elif name in _REFUSED:
            raise _refusal(name, value, _REFUSED[name])
        elif name not in _IGNORED and value:
            kept.append((name, value))
    return DatabaseUrl(_with_query(url, kept), timeout)


def libpq_url(url: str, without: Collection[str] = ()) -> str:
    """Return the URL with the parameters that PostgreSQL's own programs know, but those `without`."""
    known = (_LIBPQ | _LIBPQ_IGNORED | _OPTIONAL.keys() | {"connect_timeout"}) - {"sslaccept", *without}
    kept = [(name, value) for name, value in parse_qsl(urlsplit(url).query) if name in known]
    return _with_query(url, kept)


def _with_query(url: str, parameters: list[tuple[str, str]]) -> str:
    # Not urlunsplit: it would drop the slashes of a URL without a host.
    return url.partition("?")[0] + ("?" + urlencode(parameters, quote_via=quote) if parameters else "")


def _seconds(value: str) -> float | None:
    """Return libpq's connect_timeout (s); None for what means "wait for ever" there."""
    try:
        seconds = int(value)
    except ValueError:
        raise _refusal("connect_timeout", value, "Write a number of seconds") from None
    return float(max(2, seconds)) if seconds > 0 else None  # libpq waits for at least two seconds.


def _check_schema(value: str) -> None:
    if value not in ("", "public"):
        raise _refusal(
            "schema", value,
            "The tables are always in schema public, where their readers expect them: remove the parameter, and use a"
            " database of its own to keep them apart",
        )  # fmt: skip


def _refusal(name: str, value: str, remedy: str) -> ConfigError:
    return ConfigError(f"DATABASE_URL: {name}={value} is not supported", remedy)
