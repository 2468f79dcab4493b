"""Fixtures for the whole suite."""

pytest_plugins = ["tests.support.aws", "tests.support.kafka", "tests.support.postgres"]
