"""The starter model, fetched once for all tests that need its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from daulat.adapters.model_import import fetch_starter
from daulat.adapters.models import ModelStore
from daulat.catalog.starter import STARTER


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = ModelStore(tmp_path_factory.mktemp("starter") / "models")
    return store.path(fetch_starter(store, STARTER).digest)
