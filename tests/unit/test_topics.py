"""Creating topics: what exists is left alone, and a cluster between two controllers is waited for, not for ever."""

import asyncio
from types import SimpleNamespace

import pytest

from service.settings import Settings
from service.stream import topics
from service.stream.topics import NoControllerError, create_topics, topic_specs
from tests.support.virtual_time import virtual_time

SPECS = topic_specs(Settings())


class Admin:
    """aiokafka's admin client before a cluster that gets a controller after so many tries."""

    def __init__(self, *, present=(), tries=0):
        self.present = present
        self.tries = tries
        self.asked = []

    def __call__(self, **arguments):
        return self

    async def start(self):
        pass

    async def close(self):
        pass

    async def list_topics(self):
        return list(self.present)

    async def create_topics(self, new):
        self.asked.append([topic.name for topic in new])
        if len(self.asked) <= self.tries:
            raise AttributeError("'NoneType' object has no attribute 'nodeId'")
        return SimpleNamespace(topic_errors=[(topic.name, 0, None) for topic in new])


@virtual_time
async def test_a_controller_that_is_being_elected_is_waited_for(monkeypatch):
    monkeypatch.setattr(topics, "AIOKafkaAdminClient", Admin(tries=3))
    assert await create_topics({}, SPECS, replication=3) == {spec.name: "created" for spec in SPECS}
    assert asyncio.get_running_loop().time() == 1001.5


@virtual_time
async def test_a_cluster_without_a_controller_is_given_up_in_words(monkeypatch):
    monkeypatch.setattr(topics, "AIOKafkaAdminClient", Admin(tries=100))
    with pytest.raises(NoControllerError, match="names no controller"):
        await create_topics({}, SPECS, replication=3)
    assert asyncio.get_running_loop().time() == 1005


@virtual_time
async def test_nobody_is_asked_to_create_what_exists(monkeypatch):
    names = [spec.name for spec in SPECS]
    monkeypatch.setattr(topics, "AIOKafkaAdminClient", admin := Admin(present=names[:-1]))
    results = await create_topics({}, SPECS, replication=3)
    assert results == dict.fromkeys(names[:-1], "exists") | {names[-1]: "created"}
    assert admin.asked == [[names[-1]]]
    admin.present = names
    assert await create_topics({}, SPECS, replication=3) == dict.fromkeys(names, "exists")
    assert len(admin.asked) == 1
