"""Our own event, for whoever creates log groups and wants to say so: flat, `type` log-group-created."""

from collections.abc import Mapping
from typing import Any, Final

from service.domain.command import EnsureCommand, Trigger
from service.domain.events.fields import Fields, agreed, checked, kind, tags
from service.domain.events.result import Arrival, UnusableError
from service.domain.log_group import LogGroup, account_id, region_name

OWN_TYPE: Final = "log-group-created"


def is_own_event(body: Mapping[str, Any]) -> bool:
    """Whether an object says that it is our own event."""
    return body.get("type") == OWN_TYPE


def read_own_event(event: Fields, arrival: Arrival) -> EnsureCommand:
    """Read `account`, `region`, `log_group`, and `tags` where they are given. Raises UnusableError.

    `kms_key_id` may be there, and proves nothing: it is the sender's word, and the group is looked at all the same.
    """
    account = agreed([event.field("account"), event.place.account], account_id)
    region = agreed([event.field("region"), event.place.region], region_name)
    path, name = event.field("log_group")
    key_path, key = event.field("kms_key_id")
    if key is not None and not isinstance(key, str):
        raise UnusableError(key_path, f"is not a string but {kind(key)}")
    return EnsureCommand(
        log_group=checked(path, name, lambda value: LogGroup.of(account, region, value)),
        trigger=Trigger.CREATED,
        accepted_at_ms=arrival.accepted_at_ms,
        origin=arrival.origin,
        tags=tags(*event.field("tags")),
    )
