"""Every test of a class signs with a key of its own, never with the user's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """INFERLAB_KEY points into a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFERLAB_KEY", str(tmp_path_factory.mktemp("key") / "key.json"))
        yield
