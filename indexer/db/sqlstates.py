"""What each error code (SQLSTATE) of PostgreSQL means for what is to be done. Pure.

Source: PostgreSQL documentation, appendix A, "PostgreSQL Error Codes". A code is looked up in full first, then by its
class, its first two characters.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Cause(Enum):
    """Who has to act on an error.

    PASSING: nobody, or whoever runs the server; the same statement succeeds later. PERMANENT: a person has to change
    something in the database, or the statement is refused for ever. OURS: the statement should not have been sent.
    """

    PASSING = "passing"
    PERMANENT = "permanent"
    OURS = "ours"


class ErrorCode(NamedTuple):
    """Meaning of a code. `name`: continues "the database: " in the names of waits, which metrics use."""

    cause: Cause
    name: str


_PASSING, _PERMANENT, _OURS = Cause.PASSING, Cause.PERMANENT, Cause.OURS
NOT_SET_UP = "not set up as required"  # A pooler lends out server processes, or drops settings.
_LOST, _REFUSES_ROLE = "the connection was lost", "refuses the role"
_OTHER_SCHEMA, OTHERS_CODE = "tables are not what this release expects", "a trigger or function of others fails"
_BROKEN_FILES, BUG = "its files are damaged", "an error of this program"

CODES: dict[str, ErrorCode] = {
    "03": ErrorCode(_OURS, BUG),
    "08": ErrorCode(_PASSING, _LOST),
    "09": ErrorCode(_PERMANENT, OTHERS_CODE),
    "0A": ErrorCode(_PERMANENT, _OTHER_SCHEMA),
    "0B": ErrorCode(_OURS, BUG),
    "0F": ErrorCode(_OURS, BUG),
    "0L": ErrorCode(_PERMANENT, "lacks a right"),
    "0P": ErrorCode(_PERMANENT, "lacks a role"),
    "0Z": ErrorCode(_PERMANENT, OTHERS_CODE),
    "10": ErrorCode(_OURS, BUG),
    "20": ErrorCode(_PERMANENT, OTHERS_CODE),
    "21": ErrorCode(_PERMANENT, _OTHER_SCHEMA),
    "22": ErrorCode(_PERMANENT, "a value does not fit its column"),
    "23": ErrorCode(_PERMANENT, "a constraint refuses a row"),
    "24": ErrorCode(_OURS, BUG),
    "25": ErrorCode(_OURS, BUG),
    "25006": ErrorCode(_PASSING, "read-only"),
    "25P03": ErrorCode(_PASSING, _LOST),
    "25P04": ErrorCode(_PASSING, "slow: a transaction took too long"),
    "26": ErrorCode(_PASSING, NOT_SET_UP),
    "27": ErrorCode(_PERMANENT, OTHERS_CODE),
    "28": ErrorCode(_PASSING, _REFUSES_ROLE),  # Secrets are read again for each new connection.
    "2B": ErrorCode(_PERMANENT, "an object of others depends on ours"),
    "2D": ErrorCode(_OURS, BUG),
    "2F": ErrorCode(_PERMANENT, OTHERS_CODE),
    "34": ErrorCode(_OURS, BUG),
    "38": ErrorCode(_PERMANENT, OTHERS_CODE),
    "39": ErrorCode(_PERMANENT, OTHERS_CODE),
    "3B": ErrorCode(_OURS, BUG),
    "3D": ErrorCode(_PASSING, "does not exist"),  # A restore that drops and makes the database.
    "3F": ErrorCode(_PERMANENT, _OTHER_SCHEMA),
    "40": ErrorCode(_PASSING, "another session was in the way"),
    "42": ErrorCode(_PERMANENT, _OTHER_SCHEMA),
    "42501": ErrorCode(_PERMANENT, "lacks a right"),
    "42601": ErrorCode(_OURS, BUG),
    "42P02": ErrorCode(_OURS, BUG),
    "42P03": ErrorCode(_OURS, BUG),
    "42P05": ErrorCode(_PASSING, NOT_SET_UP),
    "44": ErrorCode(_PERMANENT, "a constraint refuses a row"),
    "53": ErrorCode(_PASSING, "out of resources"),
    "53100": ErrorCode(_PASSING, "out of disk"),
    "53200": ErrorCode(_PASSING, "out of memory"),
    "53300": ErrorCode(_PASSING, "out of connections"),
    "54": ErrorCode(_PERMANENT, "a limit of the server is reached"),
    "55": ErrorCode(_PERMANENT, "refuses changes of a table"),
    "55006": ErrorCode(_PASSING, "another session was in the way"),
    "55P03": ErrorCode(_PASSING, "a lock that another session holds"),
    "57": ErrorCode(_PASSING, "was shut down"),
    "57014": ErrorCode(_PASSING, "slow: a statement took too long"),
    "57P04": ErrorCode(_PASSING, "does not exist"),
    "57P03": ErrorCode(_PASSING, "starting, stopping or recovering"),
    "57P05": ErrorCode(_PASSING, _LOST),
    "58": ErrorCode(_PERMANENT, _BROKEN_FILES),
    "58030": ErrorCode(_PASSING, "an error of its disk"),
    "58000": ErrorCode(_PASSING, "an error of the server's operating system"),
    "72": ErrorCode(_PASSING, "another session was in the way"),
    "F0": ErrorCode(_PASSING, "its configuration is broken"),
    "HV": ErrorCode(_PERMANENT, "a foreign table fails"),
    "P0": ErrorCode(_PERMANENT, OTHERS_CODE),
    "XX000": ErrorCode(_PASSING, "an internal error of the server"),
    "XX": ErrorCode(_PERMANENT, _BROKEN_FILES),
}
UNKNOWN = ErrorCode(_PASSING, "an error that PostgreSQL does not document")


def error_code(sqlstate: str) -> ErrorCode:
    """Return the meaning of a code of five characters."""
    return CODES.get(sqlstate) or CODES.get(sqlstate[:2], UNKNOWN)
