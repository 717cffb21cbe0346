"""Settings that hold secrets: from variables or files, and into the environment of PostgreSQL's programs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from indexer import config
from indexer.cli.db import libpq_environment, without_password
from indexer.cli.session import warn_about_visible_secrets
from indexer.db.connection import connect
from indexer.db.database_url import libpq_url, read_url
from indexer.errors import ConfigError, DatabaseUnreachableError
from indexer.runtime import secrets, shell


def test_a_secret_is_the_variable_or_the_content_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("postgresql://u:p@h/d\n")
    assert secrets.secret("X", {"X": "a"}) == "a" and secrets.secret("X", {}) == ""
    assert secrets.secret("X", {"X_FILE": str(path)}) == "postgresql://u:p@h/d"
    with pytest.raises(ConfigError, match="both set"):
        secrets.secret("X", {"X": "a", "X_FILE": str(path)})
    with pytest.raises(ConfigError, match=r"X_FILE: .*No such file"):
        secrets.secret("X", {"X_FILE": str(tmp_path / "none")})
    path.write_text(" a b \r\n")
    assert secrets.secret("X", {"X_FILE": str(path)}) == "a b"
    assert secrets.secret("X", {"X_FILE": str(path)}, blanks=True) == " a b "
    for empty, blanks in (("", False), ("\n", True), (" \n", False)):
        path.write_text(empty)
        with pytest.raises(ConfigError, match=r"X_FILE: .*empty"):
            secrets.secret("X", {"X_FILE": str(path)}, blanks=blanks)
    # What editors and `docker --env-file` add is not part of a value; a password may begin with a quote.
    path.write_bytes(b"\xef\xbb\xbf'postgresql://u:p@h/d'\r\n")
    assert (
        secrets.secret("X", {"X_FILE": str(path)})
        == "postgresql://u:p@h/d"
        == secrets.secret("X", {"X": '"postgresql://u:p@h/d"'})
    )
    assert secrets.secret("X", {"X": '"a"'}, blanks=True) == '"a"' and secrets.secret("X", {"X": "'"}) == "'"
    assert secrets.secret("X", {"X": "'a','b'"}) == "'a','b'"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        secrets.secret("X", {"X_FILE": str(path)})


def test_endpoints_stand_in_a_file_one_a_line_or_with_commas(tmp_path: Path) -> None:
    path = tmp_path / "urls"
    path.write_text("https://a.example/KEY\nhttps://b.example, https://c.example\n\n")
    found = config.load("reya").endpoints("RPC", env={"REYA_RPC_URL_FILE": str(path)})
    assert found == ("https://a.example/KEY", "https://b.example", "https://c.example")
    quoted = {"REYA_RPC_URL": "'https://a.example/KEY', \"https://b.example\",https://c.example"}
    assert config.load("reya").endpoints("RPC", env=quoted) == found
    assert config.load("reya").endpoints("RPC", ("http://d",), env={"REYA_RPC_URL_FILE": str(path)}) == ("http://d",)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p%40s@h:5/d",
         {"PGHOST": "h", "PGPORT": "5", "PGUSER": "u", "PGPASSWORD": "p@s", "PGDATABASE": "d"}),
        ("postgres://h/d?sslmode=verify-full&sslrootcert=/ca.pem&connect_timeout=3",
         {"PGHOST": "h", "PGDATABASE": "d", "PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/ca.pem",
          "PGCONNECT_TIMEOUT": "3"}),
        ("postgresql://u@a:1,b:2/d", {"PGHOST": "a,b", "PGPORT": "1,2", "PGUSER": "u", "PGDATABASE": "d"}),
        ("postgresql://[::1]:7/d", {"PGHOST": "::1", "PGPORT": "7", "PGDATABASE": "d"}),
        ("postgresql:///d?host=/run/pg&user=x", {"PGHOST": "/run/pg", "PGUSER": "x", "PGDATABASE": "d"}),
    ],
)  # fmt: skip
def test_a_url_becomes_what_postgresqls_programs_read(url: str, expected: dict[str, str]) -> None:
    assert libpq_environment(url) == expected


def test_only_what_is_secret_in_a_file_may_change_while_a_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, endpoints = tmp_path / "database", tmp_path / "endpoints"
    monkeypatch.setenv("DATABASE_URL_FILE", str(database))
    monkeypatch.setenv("REYA_RPC_URL_FILE", str(endpoints))
    database.write_text("postgresql://u:one@h:5/d")
    endpoints.write_text("https://a.example/KEY-A\nhttps://a.example/KEY-B")
    url = secrets.secret("DATABASE_URL")
    first, second = config.load("reya").endpoints("RPC")
    assert (secrets.current(url), secrets.current(first), secrets.current("other")) == (url, first, "other")
    database.write_text("postgresql://w:two@h:5/d")
    endpoints.write_text("https://a.example/KEY-A\nhttps://a.example/KEY-B2\n")
    assert secrets.current(url) == "postgresql://w:two@h:5/d"
    assert (secrets.current(first), secrets.current(second)) == (first, "https://a.example/KEY-B2")
    # Another place was never checked, so it takes a restart; so does a file that is being written.
    for text in ("postgresql://u:one@h:5/other", "postgresql://u:one@elsewhere:5/d", ""):
        database.write_text(text)
        assert secrets.current(url) == url
    endpoints.write_text("https://b.example/KEY-B3")
    assert (secrets.current(first), secrets.current(second)) == (first, second)


async def test_a_rotated_password_that_is_not_escaped_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "url"
    monkeypatch.setenv("DATABASE_URL_FILE", str(file))
    file.write_text("postgresql://u:one@127.0.0.1:1/db")
    url = secrets.secret("DATABASE_URL")
    for password in ("NEWse/cret", "NEW#secret", "NEW?secret", "NEW@se:cret", "NEWx\u2100y"):
        for given in (url, f"postgresql://u:{password}@127.0.0.1:1/db"):
            file.write_text(f"postgresql://u:{password}@127.0.0.1:1/db")
            with pytest.raises(DatabaseUnreachableError) as told:
                await connect(given)
            assert "NEW" not in told.value.message and "cret" not in told.value.message, told.value.message


AS_COPIED = (
    "schema=public", "connection_limit=5", "pool_timeout=10", "pgbouncer=true", "socket_timeout=3",
    "sslaccept=accept_invalid_certs",
    "channel_binding=prefer", "gssencmode=disable", "keepalives=1", "keepalives_idle=30", "tcp_user_timeout=1000",
    "fallback_application_name=psql", "connect_timeout=10", "client_encoding=utf8", "load_balance_hosts=disable",
)  # fmt: skip


@pytest.mark.parametrize("parameter", AS_COPIED)
def test_what_libpq_or_prisma_write_and_changes_nothing_is_taken(parameter: str) -> None:
    url, limit = read_url(f"postgresql://u:p%40s@h1:1,h2/d?sslmode=require&{parameter}&target_session_attrs=any")
    assert url == "postgresql://u:p%40s@h1:1,h2/d?sslmode=require&target_session_attrs=any"
    assert limit == (10 if parameter.startswith("connect_timeout") else None)
    assert read_url(f"postgresql:///d?{parameter}").url == "postgresql:///d"


@pytest.mark.parametrize(
    "parameter",
    [
        "schema=other",
        "channel_binding=require",
        "gssencmode=require",
        "hostaddr=10.0.0.1",
        "sslaccept=strict",
        "service=x",
        "connect_timeout=soon",
    ],
)
async def test_a_parameter_that_cannot_be_honored_is_refused_by_name(parameter: str) -> None:
    with pytest.raises(DatabaseUnreachableError) as told:
        await connect(f"postgresql://u:secret@127.0.0.1:1/db?{parameter}")
    assert parameter in told.value.message and told.value.remedy and "secret" not in str(told.value)


def test_the_programs_of_postgresql_get_only_parameters_they_know() -> None:
    url = "postgresql://u@h/d?schema=public&sslmode=require&password=p%26&connection_limit=5&connect_timeout=3"
    assert libpq_url(url) == "postgresql://u@h/d?sslmode=require&password=p%26&connect_timeout=3"
    assert without_password(url) == ("postgresql://u@h/d?sslmode=require&connect_timeout=3", {"PGPASSWORD": "p&"})
    assert libpq_url("postgresql:///d?host=/run/pg") == "postgresql:///d?host=%2Frun%2Fpg"


def test_the_shells_pg_variables_are_removed_and_named() -> None:
    environment = {"PGHOST": "h", "PGSERVICE": "s", "PGPASSFILE": "f", "PGSQL_HOME": "x", "PATH": "/bin"}
    assert shell.remove_pg_variables(environment) == ["PGHOST", "PGSERVICE"]
    assert environment == {"PGPASSFILE": "f", "PGSQL_HOME": "x", "PATH": "/bin"}
    # Whatever the driver reads from the environment is among them.
    read = set(re.findall(r"""["'](PG[A-Z]+)["']""", inspect.getsource(asyncpg.connect_utils)))
    assert "PGHOST" in read and shell.remove_pg_variables(dict.fromkeys(read, "x")) == sorted(read - {"PGPASSFILE"})


@pytest.mark.parametrize("password", ["sec/ret", "se@c/ret", "sec#ret", "sec:ret/x", "s%zzret"])
async def test_an_error_does_not_tell_a_password_that_is_not_escaped(password: str) -> None:
    with pytest.raises(DatabaseUnreachableError) as told:
        await connect(f"postgresql://user:{password}@127.0.0.1:1/db")
    said = str(told.value).split("Check DATABASE_URL")[0]
    assert not any(part in said for part in ("sec", "se@", "ret")), said


def test_a_secret_in_a_flag_is_warned_of_without_telling_it() -> None:
    with capture_logs() as lines:
        warn_about_visible_secrets(
            ("https://node.example/v2/0123456789abcdef", "http://127.0.0.1:8545", "https://u:pw@b.example")
        )
    assert [line["endpoint"] for line in lines] == ["https://node.example/…", "https://b.example"]
    assert "0123456789abcdef" not in str(lines) and "pw" not in str(lines)
