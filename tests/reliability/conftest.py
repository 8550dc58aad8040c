"""Runs in processes of their own; the harness itself is `benchmarks/reliability`."""

from __future__ import annotations

import pytest

from benchmarks.reliability.harm import Undisturbed


@pytest.fixture(scope="session")
def there(tmp_path_factory) -> Undisturbed:
    """Folders with tiny data, and what undisturbed runs give there."""
    return Undisturbed(tmp_path_factory.mktemp("reliability"))
