"""Every test has a cache of its own, and none reaches the network."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SFUMATO_CACHE", str(folder))
    monkeypatch.delenv("SFUMATO_MIRROR", raising=False)
    return folder
