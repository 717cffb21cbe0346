"""Exit codes, as supervisors and scripts see them. Which error ends with which: `indexer/errors.py`."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the program ends with. `meaning` is one line; docs/reference/exit-codes.md is made from it."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, code)
        member._value_, member.meaning = code, meaning
        return member

    DONE = 0, "done"
    UNEXPECTED = 1, "an unexpected error: a traceback, or a comparison that found a difference"
    WRONG_FLAGS = 2, "wrong flags"
    CONFIG = 10, "a broken configuration: file, key, remedy"
    ENDPOINT_UNREACHABLE = 11, "no endpoint answered"
    WRONG_CHAIN = 12, "the endpoint serves another chain"
    FOREIGN_DATABASE = 13, "tables that are not ours"
    WRONG_DEPLOYMENT = 14, "ours, but bound to another deployment"
    SCHEMA_NEWER = 15, "migrated by a newer release"
    SCHEMA_OLDER = 16, "not migrated to this release yet"
    PORT_IN_USE = 17, "the HTTP port is taken"
    DATABASE_UNREACHABLE = 18, "no PostgreSQL answers"
    EMBEDDED_SERVER = 19, "the embedded PostgreSQL cannot start"
    UNREADABLE_INPUT = 20, "`decode`: a line that is not a log"
    CONFIG_CHANGED = 21, "the stored data belongs to another configuration"
    STORE_DAMAGED = 22, "rows that no release would write: a hand edit, a broken disk"
    ADOPTION_REFUSED = 23, "`migrate --adopt`: tables that projections cannot work with"
    WRITE_INTERCEPTED = 24, "the database refuses for good: a right, a policy, a trigger, a constraint, a column"
    DIFFERENCES = 30, "`verify`, `reorg verify`: differences found"
    REFUSED = 31, "refused: not the plan that was confirmed, nothing stored yet, or another process is at work"
    UNAVAILABLE = 32, "no endpoint serves the blocks that are needed, or keeps the state that is asked for"
    DRIFT = 33, "`check`: drift found"
    UNATTESTED = 34, "`verify`: a part keeps its grade"
    MUST_FIX = 36, "`doctor`: something must be fixed"
    REORG_TOO_DEEP = 70, "a fork at or below finalized, or below what is stored"
    LEASE_LOST = 75, "another process is the projector now"
    INTERRUPTED = 130, "interrupted by Ctrl-C or SIGTERM"
    STDOUT_CLOSED = 141, "the reader of stdout closed it"
