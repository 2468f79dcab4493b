"""Fixtures for the local brokers: `kafka_broker` for what both do alike, `librdkafka_kafka` and `apache_kafka` for one.

The brokers live as long as the test session and are shared, so every test takes names of its own from `unique_name`. A
test that stops a broker or injects errors starts one for itself, with `start_librdkafka()` or `start_apache()`.

A test of Apache Kafka carries the mark `apache_kafka`. Without Java or Maven it is skipped, with the reason; with
TEST_EVERYTHING=1, as in CI, it fails.
"""

import functools
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from service.sandbox.kafka.apache import ApacheKafka, apache_missing
from service.sandbox.kafka.broker import LibrdkafkaBroker, LocalBroker

TEST_EVERYTHING_VARIABLE = "TEST_EVERYTHING"

_apache_missing = functools.cache(apache_missing)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("apache_kafka") is not None:
        require_apache()


def require_apache() -> None:
    """Skip the test, or fail it where everything must be tested, when Apache Kafka cannot be started here."""
    missing = _apache_missing()
    if missing is None:
        return
    if os.environ.get(TEST_EVERYTHING_VARIABLE) == "1":
        pytest.fail(f"{TEST_EVERYTHING_VARIABLE}=1 asks for Apache Kafka. {missing}", pytrace=False)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def librdkafka_kafka() -> Iterator[LibrdkafkaBroker]:
    """librdkafka's broker, shared by the session."""
    with closing(LibrdkafkaBroker.launch()) as broker:
        yield broker


@pytest.fixture(scope="session")
def apache_kafka() -> Iterator[ApacheKafka]:
    """Apache Kafka, shared by the session."""
    require_apache()
    with closing(ApacheKafka.launch()) as broker:
        yield broker


@pytest.fixture(params=["librdkafka", pytest.param("apache", marks=pytest.mark.apache_kafka)])
def kafka_broker(request: pytest.FixtureRequest) -> LocalBroker:
    """Each of the two brokers in turn."""
    broker: LocalBroker = request.getfixturevalue(f"{request.param}_kafka")
    return broker


@pytest.fixture
def unique_name() -> Callable[[str], str]:
    """A name for a topic or a group that no other test has, from one that says what it is for."""
    suffix = uuid.uuid4().hex[:8]
    return lambda name: f"{name}-{suffix}"


@pytest.fixture(scope="session")
def best_kafka(request: pytest.FixtureRequest) -> LocalBroker:
    """Apache Kafka; librdkafka's broker where Java or Maven are absent and not everything must be tested."""
    must = os.environ.get(TEST_EVERYTHING_VARIABLE) == "1"
    broker: LocalBroker = request.getfixturevalue(
        "apache_kafka" if must or _apache_missing() is None else "librdkafka_kafka"
    )
    return broker
