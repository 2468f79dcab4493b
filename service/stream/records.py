"""A record as aiokafka read it, made one of ours."""

from aiokafka import ConsumerRecord

from service.ports import IncomingRecord


def incoming(record: "ConsumerRecord[bytes, bytes]") -> IncomingRecord:
    """The same record, without what belongs to the client."""
    return IncomingRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )
