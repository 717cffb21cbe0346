"""Every error code of PostgreSQL is passing, permanent or ours, and a permanent one names object and remedy."""

from __future__ import annotations

import asyncpg
import pytest
from asyncpg import exceptions

from indexer.db.database_errors import CONNECT_ERRORS, database_wait_name, describe, is_ours
from indexer.db.refusals import refusal
from indexer.db.sqlstates import CODES, UNKNOWN, Cause, error_code
from indexer.errors import DatabaseUnreachableError, WriteInterceptedError

KNOWN = sorted(
    {
        error.sqlstate
        for error in vars(exceptions).values()
        if isinstance(error, type) and issubclass(error, asyncpg.PostgresError) and error.sqlstate
    }
)


def raised(sqlstate: str, message: str, **fields: str) -> asyncpg.PostgresError:
    """An error as the driver makes it of the server's message."""
    short = {"table_name": "t", "schema_name": "s", "column_name": "c", "constraint_name": "n", "context": "W",
             "detail": "D", "server_source_filename": "F"}  # fmt: skip
    given = {short[name]: value for name, value in fields.items()}
    return asyncpg.PostgresError.new({"C": sqlstate, "M": message, "S": "ERROR"} | given)


def test_every_class_of_the_driver_has_a_meaning() -> None:
    assert len(KNOWN) > 200
    assert not [code for code in KNOWN if error_code(code) is UNKNOWN]
    assert not [code for code in CODES if not any(known.startswith(code) for known in KNOWN)]
    assert error_code("ZZ999") is UNKNOWN and UNKNOWN.cause is Cause.PASSING


@pytest.mark.parametrize("code", KNOWN)
def test_a_permanent_code_is_a_refusal_and_no_other_is(code: str) -> None:
    error = raised(code, "words of the server")
    permanent = error_code(code).cause is Cause.PERMANENT
    refused = refusal(error)
    assert (refused is not None) == permanent and is_ours(error) == (error_code(code).cause is Cause.OURS)
    if refused is not None:
        assert "words of the server" in refused.message and refused.remedy and refused.exit_code == 24


@pytest.mark.parametrize(
    ("error", "subject", "said"),
    [
        (raised("23502", "null value", schema_name="public", table_name="orders", column_name="note",
                detail="a secret row"),
         "public.orders", ["null value", 'ALTER TABLE "public"."orders" ALTER COLUMN "note" DROP NOT NULL']),
        (raised("23503", "violates", schema_name="public", table_name="no\"tes", constraint_name="k"),
         'public.no"tes', ['ALTER TABLE "public"."no""tes" DROP CONSTRAINT "k"']),
        (raised("P0001", "no", context="PL/pgSQL function f() line 1 at RAISE\nSQL statement"),
         "a trigger or function of others fails", ["PL/pgSQL function f() line 1 at RAISE", "DISABLE TRIGGER"]),
        (raised("22003", "out of range", context="COPY orders, line 1, column price: \"9\""),
         "a value does not fit its column", ["migrate --check"]),
        (raised("XX002", "index \x1b[31mbroken"), "its files are damaged", ["REINDEX"]),
    ],
)  # fmt: skip
def test_a_refusal_names_object_and_remedy(error: asyncpg.PostgresError, subject: str, said: list[str]) -> None:
    refused = refusal(error)
    assert refused is not None and refused.subject == subject
    assert all(words in str(refused) for words in said), str(refused)
    assert "secret row" not in str(refused) and "\n" not in str(refused) and "\x1b" not in str(refused)


def test_a_function_of_others_that_sends_nonsense_is_theirs() -> None:
    error = raised("42601", "syntax error", context="PL/pgSQL function audit() line 2 at EXECUTE")
    refused = refusal(error)
    assert refused is not None and "audit()" in refused.message and "DISABLE TRIGGER" in refused.remedy
    assert not is_ours(error) and is_ours(raised("42601", "syntax error"))


def test_a_value_that_the_driver_cannot_encode_is_a_bug_of_ours() -> None:
    error = asyncpg.DataError("invalid input for query argument $1")
    assert refusal(error) is None and is_ours(error)


def test_a_file_that_the_server_may_not_open_is_trouble_of_its_disk() -> None:
    error = raised("42501", "could not open file: Read-only file system", server_source_filename="md.c")
    assert refusal(error) is None and database_wait_name(error) == "the database: an error of its disk"
    assert refusal(raised("42501", "permission denied for table t", server_source_filename="aclchk.c")) is not None


def test_what_is_no_refusal_by_the_server_is_none() -> None:
    wrapped = DatabaseUnreachableError("no")
    wrapped.__cause__ = raised("42501", "permission denied for database")
    assert refusal(wrapped) is refusal(TimeoutError()) is refusal(OSError()) is refusal(ValueError()) is None
    assert database_wait_name(wrapped) == "the database: lacks a right"
    stale = exceptions.InvalidCachedStatementError("cached plan must not change result type")
    assert refusal(stale) is None and database_wait_name(stale) == "the database: a table was altered"
    own = WriteInterceptedError("deleted 0 of 3 rows")
    assert refusal(own) is own


def test_every_error_of_an_attempt_to_connect_has_a_name() -> None:
    unnamed = [error for error in CONNECT_ERRORS if describe(error("words")) is None]
    assert unnamed == [ValueError]  # A URL that cannot be read: a configuration error, with its own words.
