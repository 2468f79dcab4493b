"""Where commands go: the partition that the publisher chooses is the one that the worker expects, also where others chose another."""

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from service.ports import OutgoingRecord
from service.stream.publisher import KafkaPublisher
from tests.support.deployment import Deployment, client
from tests.support.fakes import LANE, ensure, lane_number
from tests.support.organisation import Organisation

ORGANISATION = Organisation(accounts=(LANE.account,), regions=(LANE.region,))


async def test_a_publisher_knows_where_it_will_write_before_it_has_written_anything(kafka_broker, unique_name):
    topic, arguments = unique_name("work"), {"bootstrap_servers": kafka_broker.bootstrap_servers}
    await kafka_broker.create_topics({topic: 7})
    keys = [str(lane_number(number)).encode() for number in range(20)]
    async with KafkaPublisher(arguments, patient_topic=topic) as publisher:
        homes = {key: publisher.home_of(topic, key) for key in keys}
        await asyncio.gather(*(publisher.publish(OutgoingRecord(topic, key, b"x")) for key in keys))
    async with AIOKafkaConsumer(topic, **arguments, auto_offset_reset="earliest") as consumer, asyncio.timeout(20):
        written: dict[bytes | None, int] = {}
        while len(written) < len(keys):
            record = await consumer.getone()
            written[record.key] = record.partition
    assert homes == written
    assert len(set(homes.values())) > 1


async def test_a_command_in_the_wrong_partition_is_worked_by_its_lane_s_owner(best_kafka, aws, tmp_path):
    deployment = await Deployment.create(best_kafka, aws, ORGANISATION, tmp_path)
    topic, groups = deployment.settings.work_topic, ORGANISATION.groups(8)
    await ORGANISATION.create_groups(aws, groups)
    async with deployment.replica() as service, client(service) as http:
        async with AIOKafkaProducer(bootstrap_servers=best_kafka.bootstrap_servers) as producer:
            for partition, each in enumerate(groups):
                value = ensure(each.name, lane=LANE).to_bytes()
                await producer.send_and_wait(topic, value, key=b"another key", partition=partition)
        await deployment.final_outcomes(groups)
        assert "\nlogwarden_commands_misplaced_total 7.0" in (await http.get("/metrics")).text
        assert service.log.read_text().count('"command_misplaced"') == 1
        assert await service.terminate() == 0
    records = await deployment.all_on(topic)
    key = str(LANE).encode()
    assert len({record.partition for record in records if record.key == key}) == 1, "all in one place"
    assert len([record for record in records if record.key == key]) == 7
    assert await ORGANISATION.wrong(aws, groups) == {}
