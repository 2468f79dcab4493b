"""Sessions that end with their token, as MSK's do with IAM: the broker cuts every connection after two seconds, and nobody notices."""

import asyncio
import json
import time
from base64 import urlsafe_b64encode

import pytest
from structlog.testing import capture_logs

from service.domain.outcome import CallFailedError, FailureClass
from service.ports import OutgoingRecord
from service.sandbox.kafka.apache import start_apache
from service.settings import Settings
from service.stream.connection import client_arguments
from service.stream.follower import Follower, following
from service.stream.group import LEASE_S
from service.stream.publisher import KafkaPublisher
from service.stream.topics import TopicSpec, create_topics, require_topics
from tests.integration.test_stream import Collector, Proofs, member, until

SESSION_S = 2
_OAUTH = "listener.name.broker.oauthbearer"
BROKER = {
    "listener.security.protocol.map": "BROKER:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
    "sasl.enabled.mechanisms": "OAUTHBEARER",
    "sasl.mechanism.inter.broker.protocol": "OAUTHBEARER",
    f"{_OAUTH}.sasl.jaas.config": "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
    'unsecuredLoginStringClaim_sub="broker";',
    f"{_OAUTH}.connections.max.reauth.ms": str(SESSION_S * 1000),
}


class Tokens:
    """Unsigned ones, which Apache Kafka takes where nothing else is set up."""

    def __init__(self):
        self.made = 0
        self.are_missing = False

    async def make(self):
        if self.are_missing:
            raise CallFailedError(FailureClass.CREDENTIALS_MISSING, "no credentials for a while")
        self.made += 1
        now = time.time()
        parts = ({"alg": "none"}, {"sub": "logwarden", "iat": now - 1, "exp": now + SESSION_S})
        return ".".join([*(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), ""])


@pytest.fixture
def tokens():
    return Tokens()


@pytest.fixture
async def arguments(tokens):
    async with start_apache(config=BROKER) as broker:
        settings = Settings(kafka_bootstrap_servers=broker.bootstrap_servers)
        # MSK's protocol is SASL_SSL; TLS is not what is tested
        yield client_arguments(settings, make_token=tokens.make) | {"security_protocol": "SASL_PLAINTEXT"}


async def write_for(seconds, publisher, topic):
    """A record every 20 ms; its value is unique."""
    values = [b"%06d" % n for n in range(seconds * 50)]
    for value in values:
        await publisher.publish(OutgoingRecord(topic, value[:5], value))
        await asyncio.sleep(0.02)
    return values


@pytest.mark.apache_kafka
async def test_sessions_that_end_cost_no_record_no_membership_and_no_word(arguments, tokens):
    await create_topics(arguments, [TopicSpec("records", 4)], replication=1)
    await require_topics(arguments, ["records"])
    seen, followed, proofs = Collector(), [], Proofs()
    follower = Follower(topic="records", arguments=arguments)
    with capture_logs() as logs:
        async with (
            member(arguments, "records", "group", seen, membership=proofs) as consumer,
            KafkaPublisher(arguments) as publisher,
            following(follower, lambda _, value: followed.append(value)),
        ):
            await until(lambda: consumer.is_joined)
            connections, refuted = tokens.made, proofs.refuted_times
            values = await write_for(5 * SESSION_S, publisher, "records")
            await until(lambda: len(followed) >= len(values) and len(seen.seen) >= len(values))
            await until(lambda: all(p.committed == p.position for p in consumer.partitions()))
            assert (seen.drained, proofs.refuted_times) == ([], refuted), "no rebalance"
    assert tokens.made - connections > 4 * 3, "of producer, consumer and follower, at each end of a session"
    assert set(seen.values) == set(values)
    assert set(followed) == set(values)
    longest_s = max(b - a for a, b in zip(proofs.sent_at, proofs.sent_at[1:], strict=False))
    assert longest_s < LEASE_S / 2, "lanes never stand still"
    assert {line["event"] for line in logs} == {"partitions_assigned", "consumer_draining", "consumer_stopped"}


@pytest.mark.apache_kafka
async def test_credentials_that_come_back_are_used_without_a_restart(arguments, tokens):
    arguments |= {"request_timeout_ms": 3_000}  # after which a write has failed
    await create_topics(arguments, [TopicSpec("records", 4)], replication=1)
    seen = Collector()
    async with member(arguments, "records", "group", seen) as consumer, KafkaPublisher(arguments) as publisher:
        await until(lambda: consumer.is_joined)
        with capture_logs() as logs:
            tokens.are_missing = True
            writing = asyncio.create_task(write_for(3 * SESSION_S, publisher, "records"))
            await until(lambda: "publish_failing" in [line["event"] for line in logs], 40)
            assert publisher.failing
            tokens.are_missing = False
            values = await writing
        await until(lambda: set(seen.values) == set(values), 40)
    assert 1 <= [line["event"] for line in logs].count("kafka_token_missing") <= 2
    assert "publish_resumed" in [line["event"] for line in logs]
