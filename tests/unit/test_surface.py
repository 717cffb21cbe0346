"""What users depend on changes only on purpose."""

from __future__ import annotations

import pytest

from tests.support.surface import FILES, recorded


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_surface_is_as_recorded(name: str) -> None:
    now, then = FILES[name](), recorded(name)
    assert now.keys() == then.keys()
    for part in now:
        assert now[part] == then[part], (
            f"{name}: {part} changed; if on purpose: python -m tests.support.surface --record"
        )
