"""Catalog of all metrics: kind, labels and help of each. docs/reference/metrics.md is generated from it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["gauge", "counter", "histogram"]
PREFIX = "reya_indexer_"


class Metric(NamedTuple):
    """One metric. `help` is one sentence, with the unit; a counter's `name` omits `_total`."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str

    @property
    def exported(self) -> str:
        """The name in Prometheus; for a histogram, without _bucket, _sum and _count."""
        return PREFIX + self.name + ("_total" if self.kind == "counter" else "")


SECTIONS: dict[str, tuple[Metric, ...]] = {
    "Where it stands": (
        Metric("block", "gauge", ("kind",), "block numbers: head, safe, finalized, ingested, projected, origin; absent"
             " while unknown"),
        Metric("lag_blocks", "gauge", ("tag",), "how many blocks the rows are behind latest, safe or finalized"),
        Metric("lag_seconds", "gauge", (), "the same for latest, in seconds of chain time"),
        Metric("attested_block", "gauge", ("grade",), "attested without a gap from the origin up to this block"),
        Metric("attested_lag_blocks", "gauge", ("grade",), "how many final blocks lack the grade; absent while none has"
             " it"),
        Metric("attesting", "gauge", (), "1 when this process attests, also while it stands by"),
        Metric("attested_newest_block", "gauge", ("grade",), "end of the newest attested range"),
        Metric("attested_blocks", "counter", ("grade",), "blocks attested"),
        Metric("attest_requests", "counter", (), "HTTP requests to attest"),
        Metric("attest_healed", "counter", (), "ranges whose stored logs were healed"),
        Metric("attest_unprovable", "counter", (), "blocks that were looked at and kept their grade"),
        Metric("attest_faults", "counter", ("endpoint",), "logs that an endpoint had wrong"),
        Metric("head_proven_block", "gauge", (), "newest block that was proven before it is final; absent without"
             " one"),
        Metric("head_proof_lag_blocks", "gauge", (), "how many blocks that one is behind the head"),
        Metric("head_unproven_blocks", "gauge", (), "committed blocks above finalized that lack a proof; absent when"
             " this process does not prove the head"),
        Metric("head_proven_blocks", "counter", (), "blocks above finalized that were proven"),
        Metric("head_proof_requests", "counter", (), "HTTP requests to prove them"),
        Metric("head_healed", "counter", (), "heals of blocks above finalized"),
        Metric("uncovered_blocks", "gauge", ("contract",), "blocks from the origin to the head that are not ingested"),
        Metric("head_age_seconds", "gauge", (), "age of the newest block known, by this machine's clock"),
        Metric("look_age_seconds", "gauge", (), "since an endpoint last told the head"),
        Metric("step_age_seconds", "gauge", (), "since the last commit of this process; absent before the first"),
    ),
    "What it does": (
        Metric("info", "gauge", ("version", "chain"), "1; which program on which deployment"),
        Metric("ready", "gauge", (), "1 when /ready answers 200"),
        Metric("state", "gauge", ("state",), "1 for what the process is doing, 0 for the others"),
        Metric("lease_held", "gauge", (), "1 when this process is the projector, 0 for a standby"),
        Metric("waiting_seconds", "gauge", ("name",),
               "how long the named wait lasts; absent when nothing is waited for"),
        Metric("waits", "counter", ("name",), "waits that began, by name"),
        Metric("waited_seconds", "counter", ("name",), "seconds of waits that ended, by name"),
        Metric("errors", "counter", ("class",), "errors that were waited out, by class"),
        Metric("stuck", "gauge", ("name",), "1 for what the watchdog finds stuck now"),
        Metric("found_stuck", "counter", ("name",), "times that something was found stuck"),
        Metric("status_age_seconds", "gauge", (), "since the database was last read for these metrics"),
        Metric("log_lines_lost", "counter", (), "log lines that could not be written: a full disk, a closed pipe"),
    ),
    "Work": (
        Metric("steps", "counter", ("kind",), "commits: ingest, project, forward (both at once), rollback, heal"),
        Metric("step_blocks", "histogram", ("kind",), "blocks of one commit: the sizes of ranges"),
        Metric("commit_seconds", "histogram", ("kind",), "seconds from a transaction's begin to its commit"),
        Metric("logs", "counter", (), "raw logs ingested"),
        Metric("events", "counter", (), "logs projected"),
        Metric("rows", "counter", ("table",), "rows written, by table"),
    ),
    "Reorgs": (
        Metric("reorgs", "counter", (), "rollbacks since the start"),
        Metric("reorg_depth_blocks", "histogram", (), "blocks that a reorg took back"),
        Metric("head_regressions", "counter", (), "looks at a head lower than the one before: lagging nodes, mostly"),
        Metric("before_images", "gauge", (), "rows kept to take unfinalized blocks back"),
    ),
    "Endpoints": (
        Metric("rpc_requests", "counter", ("endpoint",), "HTTP requests"),
        Metric("rpc_calls", "counter", ("endpoint", "method", "outcome"), "JSON-RPC calls; outcome: ok, or"
             " the error's class, which counts for every call of its batch"),
        Metric("endpoint_failed_work", "counter", ("endpoint", "class"), "pieces of work that it failed, by the error's"
             " class; another endpoint or another try did them. Inconsistent: its answers contradict each other"),
        Metric("endpoint_range_blocks", "gauge", ("endpoint",), "blocks asked for in one eth_getLogs now"),
        Metric("endpoint_aside_seconds", "gauge", ("endpoint", "reason"),
        "for how long it is asked last; absent when not"
             " set aside"),
        Metric("endpoint_well", "gauge", ("endpoint",), "1 unless it is set aside"),
        Metric("endpoint_head", "gauge", ("endpoint",), "newest block it showed"),
        Metric("endpoint_lag_blocks", "gauge", ("endpoint",), "blocks behind the best of all"),
        Metric("endpoint_error_rate", "gauge", ("endpoint",), "share of requests that failed lately, 0 to 1"),
        Metric("endpoint_latency_seconds", "gauge", ("endpoint",), "time of an answer, smoothed"),
        Metric("endpoint_disagreements", "counter", ("endpoint",),
                "times it contradicted what is final or others serve"),
        Metric("endpoint_omissions", "counter", ("endpoint",), "times it was found to leave logs out"),
        Metric("endpoint_limited", "counter", ("endpoint",), "requests that it refused for their rate"),
        Metric("endpoint_failures", "counter", ("endpoint",), "requests without a usable answer"),
        Metric("endpoint_set_aside", "counter", ("endpoint",), "times it was set aside"),
        Metric("rpc_spent", "counter", ("purpose",), "HTTP requests by purpose"),
        Metric("rpc_budget_waited_seconds", "counter", ("purpose",), "time that requests waited for their budget"),
        Metric("rpc_budget", "gauge", ("purpose",), "most HTTP requests a second for a purpose; absent without a cap"),
        Metric("endpoint_current", "gauge", ("endpoint",), "1 for the endpoint that is asked first"),
    ),
    "Alarms": (
        Metric("incidents_open", "gauge", ("kind",), "open incidents"),
        Metric("undecoded_logs", "gauge", ("reason",), "logs of watched contracts that no ABI reads, all time"),
        Metric("proxy_upgrades", "gauge", ("contract",), "Upgraded events of a watched proxy, all time"),
        Metric("proxy_upgraded_timestamp_seconds", "gauge", ("contract",),
                "time of the last one's block, unix seconds"),
    ),
}  # fmt: skip
CATALOG: dict[str, Metric] = {metric.name: metric for section in SECTIONS.values() for metric in section}

# Metrics of the standard process collector; they exist only on Linux.
PROCESS = {
    "process_resident_memory_bytes": "resident memory",
    "process_virtual_memory_bytes": "virtual memory",
    "process_cpu_seconds_total": "CPU time, user and system",
    "process_open_fds": "open file descriptors",
    "process_max_fds": "most file descriptors allowed",
    "process_start_time_seconds": "start of the process, unix seconds",
}


def markdown() -> str:
    """Return the tables of docs/reference/metrics.md."""
    lines: list[str] = []
    for title, section in SECTIONS.items():
        lines += [f"## {title}", "", "| name | kind | labels | says |", "|---|---|---|---|"]
        lines += [f"| `{t.exported}` | {t.kind} | {', '.join(t.labels)} | {t.help} |" for t in section]
        lines.append("")
    lines += ["## The process", "", "| name | says |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in PROCESS.items()]
    return "\n".join(lines) + "\n"
