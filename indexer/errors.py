"""Every error of the program, as one tree: one clear line, a remedy and, where it ends the program, an exit code.

IndexerError
 ├─ Halting                      ends the command; `exit_code` tells which
 │   ├─ ConfigError          10  a broken configuration: file, key, remedy
 │   ├─ EndpointUnreachable  11  no endpoint answered
 │   ├─ WrongChain           12  the endpoint serves another chain
 │   ├─ ForeignDatabase      13  tables that are not ours
 │   ├─ BoundElsewhere       14  ours, but bound to another deployment
 │   ├─ SchemaNewer          15  migrated by a newer release
 │   ├─ SchemaOlder          16  not migrated to this release yet
 │   ├─ PortInUse            17  the HTTP port is taken
 │   ├─ DatabaseUnreachable  18  no PostgreSQL answers
 │   ├─ EmbeddedServerError  19  the embedded PostgreSQL cannot start
 │   ├─ UnreadableInput      20  `decode`: a line that is not a log
 │   ├─ ConfigChanged        21  the stored data answers to another configuration
 │   ├─ DamagedStore         22  rows that no release leaves so: a hand edit, a broken disk
 │   ├─ AdoptionRefused      23  `migrate --adopt`: tables that projections cannot work with
 │   ├─ WriteIntercepted     24  row level security or a trigger keeps a change from taking effect
 │   ├─ Refused              31  `reorg recover`: not the plan that was confirmed, or somebody else is at work
 │   ├─ Impossible           32  `reorg plan|recover|verify`: no endpoint serves what it takes
 │   ├─ ReorgTooDeep         70  a fork at or below finalized, or below what is stored
 │   └─ LeaseLost            75  another process is the projector now
 └─ RpcError                     something an endpoint answered or failed to answer
     ├─ Transient                try again: time-out, closed connection, 5xx, an unreadable answer
     │   ├─ RateLimited          429 or its JSON-RPC cousins; `retry_after` seconds
     │   ├─ Missing              null where a block must be: the node is behind, or keeps no history
     │   └─ Inconsistent         the parts of one answer contradict each other (a torn read): not a reorg
     │       └─ NotFinal         the node does not have the final block that its blocks must join
     ├─ RangeTooLarge            ask for fewer blocks; `hint` blocks when the node names a number
     ├─ BatchRefused             the endpoint takes single calls only
     ├─ StateUnavailable     32  `eth_call` at a block whose state the endpoint does not keep
     └─ RpcRefused               any other JSON-RPC error: code and message
"""

from __future__ import annotations


class IndexerError(Exception):
    """Base of all errors raised on purpose. `message` is one line; `remedy` says what to do about it."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message


class FatalError(IndexerError):
    """Ends the command; nothing half-written stays behind because every step is one transaction."""


class ConfigError(FatalError):
    exit_code = 10


class EndpointUnreachableError(FatalError):
    exit_code = 11


class WrongChainError(FatalError):
    exit_code = 12


class ForeignDatabaseError(FatalError):
    exit_code = 13


class WrongDeploymentError(FatalError):
    exit_code = 14


class SchemaNewerError(FatalError):
    exit_code = 15


class SchemaOlderError(FatalError):
    exit_code = 16


class PortInUseError(FatalError):
    exit_code = 17


class DatabaseUnreachableError(FatalError):
    exit_code = 18


class EmbeddedServerError(FatalError):
    exit_code = 19


class UnreadableInputError(FatalError):
    exit_code = 20


class ConfigChangedError(FatalError):
    exit_code = 21


class StoreDamagedError(FatalError):
    exit_code = 22


class AdoptionRefusedError(FatalError):
    exit_code = 23


class WriteInterceptedError(FatalError):
    """A statement would change, or changed, other rows than it must: a policy hides them, a trigger drops them. Halts
    instead of being waited for, because nothing of it passes by itself and every later row would stand on it."""

    exit_code = 24


class RefusedError(FatalError):
    exit_code = 31


class ReplacementUnavailableError(FatalError):
    exit_code = 32


class ReorgTooDeepError(FatalError):
    exit_code = 70


class LeaseLostError(FatalError):
    exit_code = 75


def printable(text: str) -> str:
    """Text of others for terminals, log lines and the database: what is no visible character becomes U+FFFD. An escape
    sequence would write over other lines, a zero byte is refused by PostgreSQL."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


class RpcError(IndexerError):
    """An endpoint's failure. `endpoint` is its display name, without secrets."""

    def __init__(self, message: str, endpoint: str = "", remedy: str = "") -> None:
        message = printable(message)
        super().__init__(f"{endpoint}: {message}" if endpoint else message, remedy)
        self.endpoint = endpoint


class TransientRpcError(RpcError):
    """Worth another attempt, at the same endpoint first and then at another."""


class RateLimitedError(TransientRpcError):
    def __init__(self, message: str, endpoint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, endpoint)
        self.retry_after = retry_after


class MissingBlockError(TransientRpcError):
    """A block that the node must have is not there."""


class InconsistentResponseError(TransientRpcError):
    """Parts of one answer contradict each other. The node may be mid-reorg; nothing is concluded from it."""


class NotFinalError(InconsistentResponseError):
    """The node that served a range lacks the block known to be final: it is behind, or on an orphaned branch."""


class RangeTooLargeError(RpcError):
    """`results`: too many logs in these blocks, not too many blocks; elsewhere as many may well be served."""

    def __init__(self, message: str, endpoint: str = "", hint: int | None = None, *, results: bool = False) -> None:
        super().__init__(message, endpoint)
        self.hint, self.results = hint, results


class BatchUnsupportedError(RpcError):
    pass


class StateUnavailableError(RpcError):
    exit_code = 32


class RpcCallError(RpcError):
    def __init__(self, message: str, endpoint: str = "", code: int = 0) -> None:
        super().__init__(f"{message} (code {code})", endpoint)
        self.code = code


class ParentMismatchError(IndexerError):
    """The range does not join the stored block before it: a reorg in between, or a lying node. Nothing concluded."""

    def __init__(self, number: int) -> None:
        super().__init__(f"block {number} does not follow the stored block {number - 1}")
        self.number = number

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.number,)  # it crosses from worker processes


class StoredHashMismatchError(IndexerError):
    """A block is stored with another hash than the one to be written: a reorg, or a lying node. Nothing was written."""

    def __init__(self, number: int) -> None:
        super().__init__(f"block {number} is stored with another hash")
        self.number = number

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.number,)  # it crosses from worker processes


class EpochChangedError(IndexerError):
    """A reorg was handled since this step was planned; nothing was written. Plan again."""

    def __init__(self) -> None:
        super().__init__("a rollback came in between")


class StepStalledError(Exception):
    """A step was ended by the watchdog, to be begun again."""


class NoSecondEndpointError(Exception):
    """Every endpoint that answers served these logs itself: none is a second one."""


class UnstorableAnswerError(IndexerError):
    """An answer that its row cannot hold: it does not fit a column, or a constraint of others refuses it."""


class ViewUnansweredError(IndexerError):
    """The contract does not answer this: it reverted, has no such function, or is not there yet."""


class DecodeMismatchError(ValueError):
    """The topics or the data do not fit the ABI. The text is the reason, one line."""


class UnsupportedTypeError(Exception):
    """A type that is left to eth-abi: fixed-point numbers, functions, fixed arrays of absurd size."""
