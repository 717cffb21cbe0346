"""The net change of a window of commits: at most one change per row. Pure.

A reader delivers windows, not commits: at `finalized` a window may contain blocks that a reorg took back again, and a
consumer must not see them. Whoever applies the net changes of consecutive windows has, after each, the tables as of its
last commit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from indexer.feed.changes import Change, Key, Op


class NetChange(NamedTuple):
    """What a consumer applies: drop all it has if `void`, then the changes, of which deletes come first.

    An INSERT among them is of a row that did not exist before the window, an UPDATE of one that may have.
    """

    void: bool
    changes: list[Change]


def net(changes: Iterable[Change], *, redelivery: bool = False) -> NetChange:
    """Return the net change: of each row the last change, deletes first, otherwise in the order of the last changes.

    A row that was inserted and deleted within the window vanishes. A `void` drops what precedes it. A delete has the
    old row of the row's first delete in the window, which is the one that a consumer knows.

    Args:
        changes: of all commits of a window, in order of (seq, ord) and of the bodies.
        redelivery: part of the window may have been delivered before, as after a crash between a delivery and the
            storing of its position. Then no delete is left out: a consumer may have got the row that now vanishes, and
            would keep it for good.
    """
    void = False
    # Row -> its first and its last change, in order of the last.
    span: dict[tuple[str, Key], tuple[Change, Change]] = {}
    pop = span.pop
    for change in changes:
        if change.op is Op.VOID:
            void = True
            span.clear()
            continue
        name = (change.table, change.key)
        known = pop(name, None)
        span[name] = (known[0] if known else change, change)
    deletes, upserts = [], []
    for first, last in span.values():
        new = void or first.op is Op.INSERT  # The row did not exist before the window.
        if last.op is not Op.DELETE:
            op = Op.INSERT if new else Op.UPDATE
            upserts.append(last if last.op is op else last._replace(op=op))
        elif redelivery or not new:
            deletes.append(last._replace(row=first.row) if first.op is Op.DELETE else last)
    return NetChange(void, deletes + upserts)
