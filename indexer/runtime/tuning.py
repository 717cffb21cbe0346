"""Python's interpreter told how this program works: cycles are looked for seldom, and threads take turns often."""

from __future__ import annotations

import gc
import sys

FOLLOWING = 10_000
# A step of a backfill has some 150,000 objects at once. Looks at every 10,000 were an eighth of all its time.
BULK = 200_000
TURN = 0.001  # seconds


def tune_gc(objects: int) -> None:
    """Looks once so many more objects were made than freed: what a step allocates is freed without it, and each look
    at that costs more than it finds. Not never: tasks are cycles, and theirs are the logs of whole answers. What was
    imported so far is not looked at again."""
    gc.freeze()
    gc.set_threshold(objects, 5, 20)


def tune_thread_switching() -> None:
    """While a thread computes the next step, the loop sends the last one: some forty answers of the server, and after
    each it waits for its turn. With turns of 5 ms, the default, the server was idle a tenth of the time."""
    sys.setswitchinterval(TURN)
