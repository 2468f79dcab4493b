"""The real service as processes, against a real broker and the sandbox AWS."""

import asyncio
import json
import uuid
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from service.sandbox.aws.sandbox import AwsSandbox
from service.sandbox.kafka.broker import LocalBroker
from service.sandbox.process import ServiceProcess, free_port
from service.settings import Settings
from service.stream.topics import topic_specs
from tests.support.organisation import EXTERNAL_ID, ROLE, Organisation

TOKEN = "a-token-of-the-tests"


@dataclass(slots=True)
class Deployment:
    """Replicas that share topics, groups, a tenant file and an AWS."""

    broker: LocalBroker
    aws: AwsSandbox
    organisation: Organisation
    folder: Path
    settings: Settings
    replicas: int = 0

    @classmethod
    async def create(cls, broker, aws, organisation, folder, **settings) -> "Deployment":
        """Topics of its own on the broker, and settings that make a test quick; `settings` win over them."""
        await organisation.create(aws)
        (folder / "tenants.yaml").write_text(organisation.tenant_file())
        (folder / "tokens").write_text(f"tests:{TOKEN}\n")
        prefix = f"t{uuid.uuid4().hex[:8]}"
        chosen = {
            "kafka_bootstrap_servers": broker.bootstrap_servers,
            "kafka_fetch_max_wait_ms": 50,
            "kafka_group_prefix": prefix,
            "source_topics": [f"{prefix}.events"],
            "work_topic": f"{prefix}.work",
            "retry_topic": f"{prefix}.retry",
            "outcomes_topic": f"{prefix}.outcomes",
            "dead_letter_topic": f"{prefix}.dead-letters",
            "requests_topic": f"{prefix}.requests",
            "control_topic": f"{prefix}.control",
            "work_partitions": 8,
            "topic_partitions": 4,
            "topic_replication": 1,
            "retry_delays_s": [1.0, 2.0],
            "hold_s": 0.5,
            "max_hold_s": 2.0,
            "shutdown_drain_s": 20.0,
            "tenants_file": folder / "tenants.yaml",
            "api_token_file": folder / "tokens",
            "aws_endpoint_url": aws.endpoint,
            "aws_own_account": aws.account,
            "aws_role_name": ROLE,
            "aws_external_id": EXTERNAL_ID,
            "http_host": "127.0.0.1",
        }
        deployment = cls(broker, aws, organisation, folder, Settings(**chosen | settings))
        for spec in topic_specs(deployment.settings):
            sizes = (
                {"max.message.bytes": spec.config["max.message.bytes"]} if "max.message.bytes" in spec.config else None
            )
            await broker.create_topics({spec.name: spec.partitions}, config=sizes)
        return deployment

    @asynccontextmanager
    async def replica(self, *, is_awaited=True, environment=None, **settings):
        """One more process; `settings` are its own. Its `environment` has credentials, unless there is another one."""
        self.replicas += 1
        own = self.settings.model_copy(update={"http_port": free_port(), **settings})
        if environment is None:
            environment = self.aws.environment("eu-west-1")
        async with ServiceProcess.start(
            own, environment=environment, log=self.folder / f"replica-{self.replicas}.log"
        ) as service:
            if is_awaited:
                await service.ready()
            yield service

    async def publish(self, values) -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=self.broker.bootstrap_servers, linger_ms=5, max_request_size=2_000_000
        ) as producer:
            sent = [await producer.send(self.settings.source_topics[0], v, key=b"%d" % i) for i, v in enumerate(values)]
            await asyncio.gather(*sent)

    async def write(self, topic, key, value) -> None:
        """One record, a tombstone where there is no value."""
        async with AIOKafkaProducer(bootstrap_servers=self.broker.bootstrap_servers) as producer:
            await producer.send_and_wait(topic, value, key=key)

    @asynccontextmanager
    async def following(self, *topics):
        """A consumer of whole topics, from their beginning."""
        async with AIOKafkaConsumer(
            *topics,
            bootstrap_servers=self.broker.bootstrap_servers,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=50,
        ) as consumer:
            yield consumer

    async def final_outcomes(self, groups, timeout_s=60.0) -> dict:
        """Wait until every group has an outcome that is final; the last of each."""
        waiting = {(g.account, g.region, g.name) for g in groups}
        outcomes = {}
        async with self.following(self.settings.outcomes_topic) as consumer, asyncio.timeout(timeout_s):
            while waiting:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        outcome = json.loads(record.value)
                        group = outcome["account"], outcome["region"], outcome["log_group"]
                        outcomes[group] = outcome
                        if outcome["state"] != "deferred":
                            waiting.discard(group)
        return outcomes

    async def dead_letters(self, count, timeout_s=60.0) -> list:
        """Wait for this many records on the dead-letter topic."""
        letters: list = []
        async with self.following(self.settings.dead_letter_topic) as consumer, asyncio.timeout(timeout_s):
            while len(letters) < count:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    letters += records
        return letters

    async def all_on(self, topic) -> list:
        """Everything that is on a topic now."""
        records: list = []
        async with self.following(topic) as consumer:
            ends = await consumer.end_offsets(consumer.assignment())
            while [tp for tp, end in ends.items() if await consumer.position(tp) < end]:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    records += batch
        return records

    async def work_committed(self) -> dict[int, int]:
        """What is committed of the work topic, by partition; those where it is past the beginning."""
        async with AIOKafkaConsumer(
            bootstrap_servers=self.broker.bootstrap_servers,
            group_id=f"{self.settings.kafka_group_prefix}-worker",
            enable_auto_commit=False,
        ) as reader:  # no member: it subscribes to nothing
            offsets = {
                number: await reader.committed(TopicPartition(self.settings.work_topic, number))
                for number in range(self.settings.work_partitions)
            }
        return {number: offset for number, offset in offsets.items() if offset}

    async def work_ends(self) -> dict[int, int]:
        """Where the partitions of the work topic end now, those that have records."""
        async with self.following(self.settings.work_topic) as reader:
            ends = await reader.end_offsets(reader.assignment())
        return {tp.partition: end for tp, end in ends.items() if end}

    async def outcome_counts(self) -> Counter:
        return Counter(json.loads(record.value)["state"] for record in await self.all_on(self.settings.outcomes_topic))


def client(service: ServiceProcess) -> httpx.AsyncClient:
    """A client of one replica's side-port, with a good token."""
    return httpx.AsyncClient(
        base_url=service.url, trust_env=False, timeout=40, headers={"Authorization": f"Bearer {TOKEN}"}
    )
