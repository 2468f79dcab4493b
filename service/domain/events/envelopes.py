"""The envelopes in which events travel: how each is known, and where the record is in it.

`ENVELOPES` is the table of those that are JSON objects; a new one is one more row. What is not an object (compression, encodings,
headers) is opened in `parser.py`. An envelope states nothing about whose a group is, and of what it is about only EventBridge states
the account and the Region.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from service.domain.events.fields import Place
from service.domain.events.result import Irrelevant, UnusableError

# How EventBridge ends the detail-type of each event that carries a CloudTrail record.
_VIA_CLOUDTRAIL: Final = " via CloudTrail"


class Envelope(StrEnum):
    """Everything that is taken off, by the name that an explanation gives it."""

    CLOUDEVENT_BINARY = "CloudEvent in binary mode"
    CLOUDEVENT = "CloudEvent"
    CONFLUENT = "Confluent wire format"
    GZIP = "gzip"
    JSON_STRING = "JSON in a string"
    LIST = "list"
    EVENTBRIDGE = "EventBridge event"
    CLOUDTRAIL_FILE = "batch of records"
    SNS = "SNS notification"
    SNS_OF_LAMBDA = "SNS notification as Lambda gets it"
    SQS = "SQS message"
    SQS_RECEIVED = "SQS messages as they are received"
    LOOKUP = "event of LookupEvents"
    LOOKUP_PAGE = "page of LookupEvents"
    SUBSCRIPTION = "awslogs data"
    LOG_EVENTS = "CloudWatch Logs subscription"
    FIREHOSE = "Firehose batch"
    KINESIS = "Kinesis record"
    CONNECT_SCHEMA = "Connect schema and payload"


@dataclass(frozen=True, slots=True)
class Base64:
    """Text that is to be decoded, gzip or JSON being in it."""

    text: str


Content = tuple[Any, Place]  # what is inside, and where
Opened = Iterable[Content] | Irrelevant


def open_envelope(body: Mapping[str, Any], place: Place) -> tuple[Envelope, Opened] | None:
    """The envelope that an object is, and what is in it; None where it is none. Raises UnusableError."""
    for envelope, open_one in ENVELOPES:
        content = open_one(body, place)
        if content is not None:
            return envelope, content
    return None


def _eventbridge(body: Mapping[str, Any], place: Place) -> Opened | None:
    match body:
        case {"source": str(source), "detail": detail}:
            detail_type = body.get("detail-type")
            if source != "aws.logs":
                return Irrelevant(f"an EventBridge event of {source[:60]!r}, not of aws.logs")
            if not (detail_type is None or (isinstance(detail_type, str) and detail_type.endswith(_VIA_CLOUDTRAIL))):
                return Irrelevant("an EventBridge event of another detail-type than API calls via CloudTrail")
            account, region = (place.to("account"), body.get("account")), (place.to("region"), body.get("region"))
            return [(detail, replace(place.inside("detail"), account=account, region=region))]
        case _:
            return None


def _cloudevent(body: Mapping[str, Any], place: Place) -> Opened | None:
    if not (place.is_cloudevent or isinstance(body.get("specversion"), str)):
        return None
    match body:
        case {"data_base64": str(text)}:
            return [(Base64(text), place.inside("data_base64"))]
        case {"data": data}:
            return [(data, place.inside("data"))]
        case _:
            raise UnusableError(place.to("data"), "is missing in a CloudEvent")


def _batch(body: Mapping[str, Any], place: Place) -> Opened | None:
    """CloudTrail's files, and what Lambda gets of SQS, SNS and Kinesis. Kinesis puts its own record beside an `eventVersion`."""
    match body:
        case {"Records": list(records)}:
            return (
                (record["kinesis"], place.inside(f"Records[{index}]").inside("kinesis"))
                if isinstance(record, dict) and "kinesis" in record
                else (record, place.inside(f"Records[{index}]"))
                for index, record in enumerate(records)
            )
        case _:
            return None


def _sns(body: Mapping[str, Any], place: Place) -> Opened | None:
    match body:
        case {"Type": "Notification", "Message": message}:
            return [(message, place.inside("Message"))]
        case {"Type": "SubscriptionConfirmation" | "UnsubscribeConfirmation", "Message": _}:
            return Irrelevant("SNS's question whether it may send here")
        case _:
            return None


def _sns_of_lambda(body: Mapping[str, Any], place: Place) -> Opened | None:
    match body:
        case {"EventSource": "aws:sns", "Sns": notification}:
            return [(notification, place.inside("Sns"))]
        case _:
            return None


def _sqs(body: Mapping[str, Any], place: Place) -> Opened | None:
    """As Lambda, the API or a Kafka connector gives it."""
    match body:
        case {"body": str(message)}:
            return [(message, place.inside("body"))]
        case {"Body": str(message)}:
            return [(message, place.inside("Body"))]
        case _:
            return None


def _sqs_received(body: Mapping[str, Any], place: Place) -> Opened | None:
    return _entries("Messages", body, place)


def _lookup(body: Mapping[str, Any], place: Place) -> Opened | None:
    match body:
        case {"CloudTrailEvent": str(record)}:
            return [(record, place.inside("CloudTrailEvent"))]
        case _:
            return None


def _lookup_page(body: Mapping[str, Any], place: Place) -> Opened | None:
    return _entries("Events", body, place)


def _subscription(body: Mapping[str, Any], place: Place) -> Opened | None:
    match body:
        case {"awslogs": {"data": str(text)}}:
            return [(Base64(text), place.inside("awslogs.data"))]
        case _:
            return None


def _log_events(body: Mapping[str, Any], place: Place) -> Opened | None:
    match body:
        case {"messageType": "DATA_MESSAGE", "logEvents": list(events)}:
            return (
                (
                    event.get("message") if isinstance(event, dict) else event,
                    place.inside(f"logEvents[{index}].message"),
                )
                for index, event in enumerate(events)
            )
        case {"messageType": "CONTROL_MESSAGE"}:
            return Irrelevant("a control message: CloudWatch Logs tries whether it may send here")
        case _:
            return None


def _firehose(body: Mapping[str, Any], place: Place) -> Opened | None:
    """As Firehose sends it to an HTTP endpoint, or to a Lambda function to transform."""
    match body:
        case {"records": list(records)}:
            return (_encoded(record, place.inside(f"records[{index}]")) for index, record in enumerate(records))
        case _:
            return None


def _kinesis(body: Mapping[str, Any], place: Place) -> Opened | None:
    match body:
        case {"kinesisSchemaVersion": _}:
            return [_encoded(body, place)]
        case _:
            return None


def _connect_schema(body: Mapping[str, Any], place: Place) -> Opened | None:
    """Debezium's outbox, and any source connector whose converter writes schemas."""
    match body:
        case {"schema": _, "payload": None}:
            return Irrelevant("a tombstone: a payload that is null")
        case {"schema": _, "payload": payload}:
            return [(payload, place.inside("payload"))]
        case _:
            return None


def _entries(name: str, body: Mapping[str, Any], place: Place) -> Opened | None:
    match body.get(name):
        case list(entries):
            return ((entry, place.inside(f"{name}[{index}]")) for index, entry in enumerate(entries))
        case _:
            return None


def _encoded(record: Any, place: Place) -> Content:
    match record:
        case {"data": str(text)}:
            return Base64(text), place.inside("data")
        case _:
            return (record.get("data") if isinstance(record, dict) else record), place.inside("data")


ENVELOPES: Final[tuple[tuple[Envelope, Callable[[Mapping[str, Any], Place], Opened | None]], ...]] = (
    (Envelope.EVENTBRIDGE, _eventbridge),
    (Envelope.CLOUDEVENT, _cloudevent),
    (Envelope.CLOUDTRAIL_FILE, _batch),
    (Envelope.SNS, _sns),
    (Envelope.SNS_OF_LAMBDA, _sns_of_lambda),
    (Envelope.SQS, _sqs),
    (Envelope.SQS_RECEIVED, _sqs_received),
    (Envelope.LOOKUP, _lookup),
    (Envelope.LOOKUP_PAGE, _lookup_page),
    (Envelope.SUBSCRIPTION, _subscription),
    (Envelope.LOG_EVENTS, _log_events),
    (Envelope.FIREHOSE, _firehose),
    (Envelope.KINESIS, _kinesis),
    (Envelope.CONNECT_SCHEMA, _connect_schema),
)
