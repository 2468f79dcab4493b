"""Records that aiokafka cannot decode: a header whose name is not UTF-8 makes getmany() raise, each time that it comes to it.

The call that failed has moved past records of other partitions that it did not return, so whoever reads goes back to where they were
and reads on with `read_one`, which loses none. What follows such a record in its batch cannot be read either.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

# Header of a record that stands for such a one: why; the bytes are only at its offset.
UNREADABLE: Final = "logwarden-unreadable"
_WAIT_MS: Final = 300  # a fetch, since going back throws away what was read ahead

RecordsByPartition = Mapping[TopicPartition, Sequence["ConsumerRecord[bytes, bytes]"]]

_log = structlog.get_logger(__name__)


async def read_one(consumer: AIOKafkaConsumer, tp: TopicPartition) -> RecordsByPartition:
    """The next record of a partition as getmany gives it, or one without key and value in its place; nothing if none comes soon.

    Raises KafkaError. A cancelled read has lost nothing that was not returned.
    """
    try:
        batches: RecordsByPartition = await consumer.getmany(tp, timeout_ms=_WAIT_MS, max_records=1)
    except UnicodeDecodeError as e:
        offset = await consumer.position(tp)
        consumer.seek(tp, offset + 1)
        _log.error("record_unreadable", record=f"{tp.topic}/{tp.partition}/{offset}")
        headers = ((UNREADABLE, f"a header's name is not UTF-8: {e.reason}".encode()),)
        now_ms = time.time_ns() // 1_000_000
        return {tp: [ConsumerRecord(tp.topic, tp.partition, offset, now_ms, 0, None, None, None, -1, -1, headers)]}
    return batches
