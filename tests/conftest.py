"""Fixtures for the whole suite, and which tests may run beside each other."""

from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.support.aws", "tests.support.kafka", "tests.support.postgres"]

# Brokers, databases and replicas: two such tests at once would wait for each other.
_WITH_PROCESSES: Final = ("tests/contract/", "tests/e2e/", "tests/integration/")


class _OneAtATime(LoadScopeScheduling):  # type: ignore[misc]
    """All tests that start processes in one worker, the rest by file in whichever is free."""

    def _split_scope(self, nodeid: str) -> str:
        return "processes" if nodeid.startswith(_WITH_PROCESSES) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """For `poe test`, which has two workers."""
    return _OneAtATime(config, log)
