"""What a migration's statements become where tables are not ours, and which types hold the contract's values."""

from __future__ import annotations

import pytest

from indexer.schema.adopted_tables import NOTHING, filter_statement
from indexer.schema.adoption import can_store

TAKEN = frozenset({"orders", "Market", "WalletDetails", "swaps"})

LEFT_OUT = (
    "\nCREATE TABLE orders (\n\tid TEXT NOT NULL\n)",
    'CREATE TABLE public."swaps" (id text)',
    "CREATE TABLE IF NOT EXISTS public.orders (id text)",
    'CREATE VIEW public."Market" AS SELECT 1',
    "\nCREATE VIEW\n  public.orders AS SELECT 1",
    "CREATE UNIQUE INDEX orders_unique_id_key ON orders (unique_id)",
    "CREATE INDEX x ON public.orders (fee)",
    "ALTER TABLE public.orders SET (fillfactor = 70)",
    'ALTER TABLE ONLY public."WalletDetails" ADD COLUMN x text',
    "DROP TABLE orders",
    "\nDROP TABLE orders",
    'DROP TABLE public."swaps"',
    'DROP VIEW public."Market", public.orders',
    "DROP INDEX public.orders_event_sequence_number_idx",
    'TRUNCATE public."swaps"',
    "UPDATE public.orders SET fee = 1",
    'LOCK TABLE public."WalletDetails" IN ACCESS EXCLUSIVE MODE',
    """DO $$ BEGIN IF EXISTS (SELECT FROM public."swaps") THEN RAISE EXCEPTION 'x'; END IF; END $$""",
    "CREATE TRIGGER t BEFORE DELETE ON public.orders FOR EACH ROW EXECUTE FUNCTION f()",
    "DROP TRIGGER t ON public.orders",
)
KEPT = (
    "CREATE TABLE order_history (id text)",
    "CREATE TABLE indexer.orders (id text)",
    'CREATE VIEW public."orders_safe" AS SELECT t.* FROM public."orders" t',
    "CREATE INDEX order_history_fee_idx ON order_history (fee)",
    "DROP INDEX public.order_history_fee_idx",
    "ALTER TABLE indexer.checkpoint ADD COLUMN x int",
    "DROP TABLE indexer.alembic_version, indexer.adopted",
    "DROP TABLE IF EXISTS order_history CASCADE",
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone TO ''UTC''', current_database()); END $$",
    'SELECT EXISTS (SELECT FROM public."ConditionalOrders")',
    "SELECT version_num FROM indexer.alembic_version",
)


@pytest.mark.parametrize("statement", LEFT_OUT)
def test_a_statement_that_touches_a_table_of_others_is_left_out(statement: str) -> None:
    assert filter_statement(statement, TAKEN) == NOTHING
    assert filter_statement(statement, frozenset()) == statement


@pytest.mark.parametrize("statement", KEPT)
def test_other_statements_stay_as_they_are(statement: str) -> None:
    assert filter_statement(statement, TAKEN) == statement


def test_of_a_list_only_what_is_ours_is_dropped() -> None:
    assert filter_statement('DROP VIEW public."Market", public.trades', TAKEN) == "DROP VIEW public.trades"
    assert filter_statement("DROP TABLE IF EXISTS public.a, orders, b CASCADE", TAKEN) == (
        "DROP TABLE IF EXISTS public.a, b CASCADE"
    )


def test_whether_rows_would_go_is_not_asked_of_what_stays() -> None:
    assert filter_statement('SELECT EXISTS (SELECT FROM public."WalletDetails")', TAKEN) == "SELECT false"


@pytest.mark.parametrize(
    ("found", "wanted", "fits"),
    [
        ("numeric", "numeric(78,0)", True),
        ("numeric(80,0)", "numeric(78,0)", True),
        ("numeric(77,0)", "numeric(78,0)", False),
        ("numeric(108,30)", "numeric(78,0)", False),  # gives back 5.000...0 for 5
        ("numeric(65,30)", "numeric(78,0)", False),  # what Prisma makes of a Decimal by itself
        ("bigint", "numeric(78,0)", False),
        ("text", "numeric(78,0)", False),
        ("character varying", "text", True),
        ("character varying(66)", "text", False),
        ("numeric", "bigint", False),  # divided by 100000 it would have a fraction
        ("integer", "bigint", False),
        ("bigint", "integer", True),
        ("timestamp(6) without time zone", "timestamp(3) without time zone", True),
        ("timestamp(0) without time zone", "timestamp(3) without time zone", False),
        ("timestamp(3) with time zone", "timestamp(3) without time zone", False),
        ("json", "jsonb", False),
    ],
)
def test_types_that_hold_every_value(found: str, wanted: str, fits: bool) -> None:
    assert can_store(found, wanted) is fits
