"""Our own event, for whoever creates log groups and wants to say so: flat, `type` log-group-created."""

from collections.abc import Mapping
from typing import Any, Final

from service.domain.command import EnsureCommand, Trigger
from service.domain.events.fields import Fields, agreed, checked, said_key, tags
from service.domain.events.result import Arrival, Asked
from service.domain.log_group import LogGroup, account_id, region_name

OWN_TYPE: Final = "log-group-created"


def is_own_event(body: Mapping[str, Any]) -> bool:
    """Whether an object says that it is our own event, and not that it is CloudTrail's, which the first look relies on."""
    return body.get("type") == OWN_TYPE and not ("eventVersion" in body and "userIdentity" in body)


def read_own_event(event: Fields, arrival: Arrival) -> Asked:
    """Read `account`, `region`, `log_group`, and `tags` and `kms_key_id` where they are given. Raises UnusableError."""
    account = agreed([event.field("account"), event.place.account], account_id)
    region = agreed([event.field("region"), event.place.region], region_name)
    path, name = event.field("log_group")
    key = said_key(*event.field("kms_key_id"))
    command = EnsureCommand(
        log_group=checked(path, name, lambda value: LogGroup.of(account, region, value)),
        trigger=Trigger.CREATED,
        accepted_at_ms=arrival.accepted_at_ms,
        origin=arrival.origin,
        tags=tags(*event.field("tags")),
    )
    return Asked(command, key)
