"""The shell's PG* variables, which must never decide which server or database this program works on.

Driver and PostgreSQL's own programs fill in whatever a URL leaves open from them: another host address, service, TLS
mode or role than the deployment's. They are removed before anything connects.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# All but PGPASSFILE, because where passwords are kept says nothing about where we work.
# https://www.postgresql.org/docs/current/libpq-envars.html
_LIBPQ = frozenset(
    ["PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGREQUIREAUTH", "PGCHANNELBINDING",
     "PGSERVICE", "PGSERVICEFILE", "PGOPTIONS", "PGAPPNAME", "PGSSLMODE", "PGREQUIRESSL", "PGSSLNEGOTIATION",
     "PGSSLCOMPRESSION", "PGSSLCERT", "PGSSLKEY", "PGSSLCERTMODE", "PGSSLROOTCERT", "PGSSLCRL", "PGSSLCRLDIR",
     "PGSSLSNI", "PGREQUIREPEER", "PGSSLMINPROTOCOLVERSION", "PGSSLMAXPROTOCOLVERSION", "PGGSSENCMODE",
     "PGGSSDELEGATION", "PGKRBSRVNAME", "PGGSSLIB", "PGCONNECT_TIMEOUT", "PGCLIENTENCODING", "PGTARGETSESSIONATTRS",
     "PGLOADBALANCEHOSTS", "PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION", "PGDATESTYLE", "PGTZ", "PGGEQO",
     "PGSYSCONFDIR", "PGLOCALEDIR", "PGDATA"]
)  # fmt: skip
ignored: list[str] = []  # Names of the variables that were removed, sorted; `doctor` shows them.


def remove_pg_variables(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Remove libpq's variables, and return their names, sorted. Other variables that begin with PG stay."""
    found = sorted(name for name in environment if name in _LIBPQ)
    for name in found:
        del environment[name]
    ignored[:] = found
    return found
