"""Interpreter settings for this program's load: rare garbage collection of cycles, frequent thread switches."""

from __future__ import annotations

import gc
import sys

FOLLOWING = 10_000
# A step of a backfill has some 150,000 objects at once; collecting at every 10,000 took an eighth of its time.
BULK = 200_000
SWITCH_INTERVAL_S = 0.001


def tune_gc(objects: int) -> None:
    """Collect garbage cycles only after `objects` more objects were created than freed, and freeze what exists so far.

    Whatever a step allocates is freed without the collector, and each collection during a step costs more than it
    gains. It is not turned off, because tasks are cycles and hold the logs of whole answers. Modules imported so far
    are never scanned again.
    """
    gc.freeze()
    gc.set_threshold(objects, 5, 20)


def tune_thread_switching() -> None:
    """Let threads take turns every SWITCH_INTERVAL_S.

    While a thread computes the next step, the event loop sends the last one: some forty answers of the server, and
    after each the loop waits for its turn. With turns of 5 ms, the default, the server was idle a tenth of the time.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
