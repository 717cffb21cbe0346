"""Python's collector of cycles, told to look seldom: what a step allocates by the hundred thousand is freed without it,
and each look at that costs more than it finds."""

from __future__ import annotations

import gc

FOLLOWING = 10_000
# A step of a backfill has some 150,000 objects at once. Looks at every 10,000 were an eighth of all its time.
BULK = 200_000


def calm_collector(objects: int) -> None:
    """Looks once so many more objects were made than freed. Not never: tasks are cycles, and theirs are the logs of
    whole answers. What was imported so far is not looked at again."""
    gc.freeze()
    gc.set_threshold(objects, 5, 20)
