"""Every error of the program, as one tree: one clear line, a remedy and, where it ends the program, an exit code.

IndexerError
 ├─ FatalError                        ends the command; `exit_code` says which
 │   ├─ ConfigError               10
 │   ├─ EndpointUnreachableError  11
 │   ├─ WrongChainError           12
 │   ├─ ForeignDatabaseError      13
 │   ├─ WrongDeploymentError      14
 │   ├─ SchemaNewerError          15
 │   ├─ SchemaOlderError          16
 │   ├─ PortInUseError            17
 │   ├─ DatabaseUnreachableError  18
 │   ├─ EmbeddedServerError       19
 │   ├─ UnreadableInputError      20
 │   ├─ ConfigChangedError        21
 │   ├─ StoreDamagedError         22
 │   ├─ AdoptionRefusedError      23
 │   ├─ WriteInterceptedError     24
 │   ├─ RefusedError              31
 │   ├─ ReplacementUnavailableError 32
 │   ├─ ReorgTooDeepError         70
 │   └─ LeaseLostError            75
 ├─ RpcError                          something an endpoint answered or failed to answer
 │   ├─ TransientRpcError             try again: timeout, closed connection, 5xx, an unreadable answer
 │   │   ├─ RateLimitedError          429 or its JSON-RPC cousins; `retry_after` seconds
 │   │   ├─ MissingBlockError         null where a block must be: the node is behind, or keeps no history
 │   │   └─ InconsistentResponseError the parts of one answer contradict each other (a torn read): not a reorg
 │   │       └─ NotFinalError         the node does not have the final block that its blocks must join
 │   ├─ RangeTooLargeError            ask for fewer blocks; `hint` blocks when the node names a number
 │   ├─ BatchUnsupportedError         the endpoint takes single calls only
 │   ├─ StateUnavailableError     32  `eth_call` at a block whose state the endpoint does not keep
 │   └─ RpcCallError                  any other JSON-RPC error: code and message
 ├─ BlockMismatchError                a block does not fit what is stored
 │   ├─ ParentMismatchError           a block range does not join the stored block before it
 │   └─ StoredHashMismatchError       a block is stored with another hash
 ├─ EpochChangedError                 a reorg was handled, or a slot created, since this step was planned
 ├─ SinkError                         a broker did not confirm: the worker delivers again
 ├─ FeedResetError                    the changes that a reader needs next are no longer kept
 ├─ UnstorableAnswerError             a contract's answer does not fit its row
 └─ ViewUnansweredError               a contract does not answer a view call

The six classes at the end are control flow: each is caught before it ends a command.
"""

from __future__ import annotations

from typing import ClassVar

from indexer.exit_codes import ExitCode


class IndexerError(Exception):
    """Base of all errors raised on purpose: one line, and what to do about it. Alert rules select by `label`."""

    exit_code: ClassVar[int] = ExitCode.UNEXPECTED
    label: ClassVar[str] = "IndexerError"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message


def error_label(error: BaseException) -> str:
    """The error's name in metrics and log lines: the label of its class, or the class name of a foreign error."""
    return str(getattr(error, "label", type(error).__name__))


class FatalError(IndexerError):
    """Ends the command; nothing half-written stays behind because every step is one transaction."""

    label = "Halting"


class ConfigError(FatalError):
    """The configuration is broken: file, key and remedy."""

    exit_code, label = ExitCode.CONFIG, "ConfigError"


class EndpointUnreachableError(FatalError):
    """No endpoint answered."""

    exit_code, label = ExitCode.ENDPOINT_UNREACHABLE, "EndpointUnreachable"


class WrongChainError(FatalError):
    """The endpoint serves another chain."""

    exit_code, label = ExitCode.WRONG_CHAIN, "WrongChain"


class ForeignDatabaseError(FatalError):
    """The database holds tables that are not ours."""

    exit_code, label = ExitCode.FOREIGN_DATABASE, "ForeignDatabase"


class WrongDeploymentError(FatalError):
    """The database is ours, but bound to another deployment."""

    exit_code, label = ExitCode.WRONG_DEPLOYMENT, "BoundElsewhere"


class SchemaNewerError(FatalError):
    """A newer release migrated this database."""

    exit_code, label = ExitCode.SCHEMA_NEWER, "SchemaNewer"


class SchemaOlderError(FatalError):
    """The database is not migrated to this release yet."""

    exit_code, label = ExitCode.SCHEMA_OLDER, "SchemaOlder"


class PortInUseError(FatalError):
    """The HTTP port is taken."""

    exit_code, label = ExitCode.PORT_IN_USE, "PortInUse"


class DatabaseUnreachableError(FatalError):
    """No PostgreSQL answers."""

    exit_code, label = ExitCode.DATABASE_UNREACHABLE, "DatabaseUnreachable"


class EmbeddedServerError(FatalError):
    """The embedded PostgreSQL cannot start."""

    exit_code, label = ExitCode.EMBEDDED_SERVER, "EmbeddedServerError"


class UnreadableInputError(FatalError):
    """A line of `decode`'s input is not a log."""

    exit_code, label = ExitCode.UNREADABLE_INPUT, "UnreadableInput"


class ConfigChangedError(FatalError):
    """The stored data answers to another configuration."""

    exit_code, label = ExitCode.CONFIG_CHANGED, "ConfigChanged"


class StoreDamagedError(FatalError):
    """The database holds rows that no release leaves so: a hand edit, or a broken disk."""

    exit_code, label = ExitCode.STORE_DAMAGED, "DamagedStore"


class AdoptionRefusedError(FatalError):
    """`migrate --adopt` found tables that projections cannot work with."""

    exit_code, label = ExitCode.ADOPTION_REFUSED, "AdoptionRefused"


class WriteInterceptedError(FatalError):
    """A policy, trigger, constraint or right keeps a change out, and will not pass. `subject`: table, or what else."""

    exit_code, label, subject = ExitCode.WRITE_INTERCEPTED, "WriteIntercepted", "the database"


class RefusedError(FatalError):
    """The request does not fit what is stored: not the plan that was confirmed, or somebody else is at work."""

    exit_code, label = ExitCode.REFUSED, "Refused"


class ReplacementUnavailableError(FatalError):
    """No endpoint serves the blocks that are needed."""

    exit_code, label = ExitCode.UNAVAILABLE, "Impossible"


class ReorgTooDeepError(FatalError):
    """A fork at or below finalized, or below what is stored."""

    exit_code, label = ExitCode.REORG_TOO_DEEP, "ReorgTooDeep"


class LeaseLostError(FatalError):
    """Another process is the projector now."""

    exit_code, label = ExitCode.LEASE_LOST, "LeaseLost"


def printable(text: str) -> str:
    """Text from strangers with U+FFFD for invisible characters: escape sequences overwrite lines of a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


class RpcError(IndexerError):
    """An endpoint's failure. `endpoint` is its display name, without secrets; `words` is the message without it."""

    label = "RpcError"

    def __init__(self, message: str, endpoint: str = "", remedy: str = "") -> None:
        message = printable(message)
        super().__init__(f"{endpoint}: {message}" if endpoint else message, remedy)
        self.endpoint, self.words = endpoint, message


class TransientRpcError(RpcError):
    """Worth another attempt, at the same endpoint first. `unreadable`: it did answer; `code`: with this error code."""

    label, unreadable, code = "Transient", False, 0


class RateLimitedError(TransientRpcError):
    """The endpoint limits the rate. `retry_after`: seconds, None when it does not say."""

    label = "RateLimited"

    def __init__(self, message: str, endpoint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, endpoint)
        self.retry_after = retry_after


class MissingBlockError(TransientRpcError):
    """A block that the node must have is not there."""

    label = "Missing"


class InconsistentResponseError(TransientRpcError):
    """Parts of one answer contradict each other. The node may be mid-reorg; nothing is concluded from it."""

    label = "Inconsistent"


class NotFinalError(InconsistentResponseError):
    """The node that served a range lacks the block known to be final: it is behind, or on an orphaned branch."""

    label = "NotFinal"


class RangeTooLargeError(RpcError):
    """The endpoint serves fewer blocks at once. `hint`: how many. `results`: these blocks have too many logs."""

    label = "RangeTooLarge"

    def __init__(self, message: str, endpoint: str = "", hint: int | None = None, *, results: bool = False) -> None:
        super().__init__(message, endpoint)
        self.hint, self.results = hint, results


class BatchUnsupportedError(RpcError):
    """The endpoint takes single calls only."""

    label = "BatchRefused"


class StateUnavailableError(RpcError):
    """The endpoint does not keep the state of the block that `eth_call` names."""

    exit_code, label = ExitCode.UNAVAILABLE, "StateUnavailable"


class RpcCallError(RpcError):
    """Any other JSON-RPC error. `code`: the one in the answer."""

    label = "RpcRefused"

    def __init__(self, message: str, endpoint: str = "", code: int = 0) -> None:
        super().__init__(f"{message} (code {code})", endpoint)
        self.code = code


class BlockMismatchError(IndexerError):
    """Base of errors about block `number`: a reorg, or a lying node. `problem` has room for it and the one before."""

    problem: ClassVar[str]

    def __init__(self, number: int) -> None:
        super().__init__(self.problem.format(number, number - 1))
        self.number = number

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.number,)  # it crosses from worker processes


class ParentMismatchError(BlockMismatchError):
    """A block range does not join the stored block before it. Nothing is concluded."""

    label, problem = "SeamBroken", "block {} does not follow the stored block {}"


class StoredHashMismatchError(BlockMismatchError):
    """A block is stored with another hash than the one to be written. Nothing was written."""

    label, problem = "HashConflict", "block {} is stored with another hash"


class EpochChangedError(IndexerError):
    """A reorg was handled, or a slot created, since this step was planned; nothing was written. Plan again."""

    label = "EpochMoved"

    def __init__(self) -> None:
        super().__init__("a rollback happened, or a slot was created, in the meantime")


class FeedResetError(IndexerError):
    """The changes that a reader needs next are no longer kept: it begins anew from a snapshot."""

    label = "FeedReset"


class SinkError(IndexerError):
    """A broker did not confirm what it was given, or cannot be reached. Nothing is lost: it is delivered again."""

    label = "SinkError"


class UnstorableAnswerError(IndexerError):
    """A contract's answer does not fit its row: a column is too narrow, or a constraint of others refuses it."""

    label = "Unkept"


class ViewUnansweredError(IndexerError):
    """A contract does not answer a view call: it reverted, has no such function, or is not there yet."""

    label = "Unanswered"


class StepStalledError(Exception):
    """The watchdog ended a step, to be begun again."""

    label = "Stalled"


class NoSecondEndpointError(Exception):
    """Every endpoint that answers served these logs itself: none is a second one."""


class DecodeMismatchError(ValueError):
    """The topics or the data do not fit the ABI. The text is the reason, one line."""


class UnsupportedTypeError(Exception):
    """A type that is left to eth-abi: fixed-point numbers, functions, fixed arrays of absurd size."""
