"""What the command line says straight over Kafka, on librdkafka's broker, which is also the demo's."""

import pytest

from service.remote import pause as pause_command
from service.remote.pause import PauseError, say_by_kafka
from service.settings import Settings
from service.stream import topics
from service.stream.connection import client_arguments
from service.stream.reach import UnreachableError, reached
from service.stream.topics import NoControllerError, TopicSpec, create_topics


@pytest.fixture
def settings(librdkafka_kafka, unique_name):
    return Settings(
        kafka_bootstrap_servers=librdkafka_kafka.bootstrap_servers,
        control_topic=unique_name("control"),
        work_topic=unique_name("work"),
    )


async def test_a_broker_that_names_no_controller_creates_nothing_and_has_what_exists(
    librdkafka_kafka, settings, monkeypatch
):
    monkeypatch.setattr(topics, "_ELECTION_S", 0.0)
    arguments, spec = client_arguments(settings), TopicSpec(settings.work_topic, 2)
    with pytest.raises(NoControllerError):
        await create_topics(arguments, [spec], replication=-1)
    await librdkafka_kafka.create_topics({spec.name: spec.partitions})
    assert await create_topics(arguments, [spec], replication=-1) == {spec.name: "exists"}


async def test_a_topic_that_is_not_there_is_named_and_nothing_is_written(settings):
    with pytest.raises(UnreachableError, match=f"no such topics: {settings.work_topic}.*Nothing was written"):
        async with reached(client_arguments(settings), settings.work_topic):
            pass


async def test_a_pause_over_kafka_knows_of_the_one_before(librdkafka_kafka, settings, monkeypatch):
    await librdkafka_kafka.create_topics({settings.control_topic: 1})
    nothing = await say_by_kafka(settings, None)
    assert (nothing["paused"], nothing["by"]) == (False, None)
    first = await say_by_kafka(settings, "a break")
    other = await say_by_kafka(settings, "lunch")
    assert (first["paused"], other) == (True, first | {"reason": "lunch"})
    monkeypatch.setattr(pause_command, "_name", lambda: "bob@elsewhere")
    with pytest.raises(PauseError, match=f"{first['by']} has paused the service since .*: lunch"):
        await say_by_kafka(settings, "mine")
    with pytest.raises(PauseError, match=r"lunch\. .*resume --force"):
        await say_by_kafka(settings, None)
    resumed = await say_by_kafka(settings, None, is_forced=True)
    assert (resumed["paused"], resumed["by"]) == (False, "bob@elsewhere")
    assert await say_by_kafka(settings, None) == resumed
