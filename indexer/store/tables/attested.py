"""Of our own schema: which endpoint served what, what was attested, and which endpoint was found wrong."""

from __future__ import annotations

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, Column, Identity, Index, Integer, LargeBinary, Table, Text

from indexer.store.tables.own import now, own

# Which endpoint the logs of stored blocks were read from. Of rows that overlap the newest counts. Adjacent ranges are
# merged on write; `contracts` are ids in indexer.contract, ascending.
served = Table(
    "served",
    own,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("contracts", ARRAY(Integer), nullable=False),
    Column("first_block", BigInteger, nullable=False),
    Column("last_block", BigInteger, nullable=False),
    Index("served_last_block_idx", "last_block"),
)

# Append-only, which a trigger enforces. A row of grade 'void' takes back what rows before it say of its blocks and
# contracts: written in the transaction of the rollback or heal that changed their logs.
attestation = Table(
    "attestation",
    own,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("first_block", BigInteger, nullable=False),
    Column("last_block", BigInteger, nullable=False),
    Column("contracts", ARRAY(Integer), nullable=False),
    Column("grade", Text, nullable=False),
    # How it was checked; of a void row why it is void.
    Column("method", Text, nullable=False),
    # The anchors: hashes of both ends. NULL where the block is not stored, and of a void row.
    Column("first_hash", LargeBinary, nullable=True),
    Column("last_hash", LargeBinary, nullable=True),
    # Number and SHA-256 of the contracts' stored logs, in the form that indexer/attest/digest.py says.
    Column("logs", BigInteger, nullable=True),
    Column("digest", LargeBinary, nullable=True),
    Column("endpoints", ARRAY(Text), nullable=False),
    now(),
    CheckConstraint("grade IN ('cross-checked', 'proven', 'void')", name="attestation_grade"),
    CheckConstraint("first_block <= last_block", name="attestation_range"),
    Index("attestation_grade_idx", "grade", "last_block"),
)

# Append-only. A log that an endpoint left out, made up, changed or numbered wrongly, in blocks whose headers prove
# it. 'served': what we had stored came from it, and was healed as `reorg_id` of the journal tells; 'asked': it said so
# when it was asked to confirm what is stored.
blame = Table(
    "blame",
    own,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("block_number", BigInteger, nullable=False),
    Column("log_index", Integer, nullable=True),
    Column("what", Text, nullable=False),
    Column("proven_by", Text, nullable=False),
    Column("reorg_id", BigInteger, nullable=True),
    now(),
    CheckConstraint("role IN ('served', 'asked')", name="blame_role"),
)
