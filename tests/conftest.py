"""Tests run in parallel processes of one thread each, and share a cache that is not the user's."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported, and for the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep packed sets and classifiers in the temporary folder of this test session."""
    base: Path = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    before = os.environ.get("SFUMATO_CACHE")
    os.environ["SFUMATO_CACHE"] = str(folder)
    yield
    if before is None:
        del os.environ["SFUMATO_CACHE"]
    else:
        os.environ["SFUMATO_CACHE"] = before
