"""The demo's organisation: its tenants, accounts, keys and log groups, the events about them, and what must become of each.

What must become of a log group is written down here, group by group, and not computed by the service's own rules: the proof would
prove nothing otherwise.
"""

import base64
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from service.sandbox.aws.commands import NewLogGroup
from service.sandbox.aws.policy import logs_key_policy
from service.sandbox.aws.sandbox import AwsSandbox

ACCOUNTS: Final = ("111122223333", "444455556666")
REGIONS: Final = ("eu-west-1", "us-east-1")
ELSEWHERE: Final = "ap-southeast-2"  # where no tenant has a key
ROLE: Final = "logwarden"
EXTERNAL_ID: Final = "demo"

_SEED: Final = 7  # the same demo each time
_SERVICES: Final = ("checkout", "ledger", "search", "auth", "mail", "reports", "import", "edge")
_IRRELEVANT: Final = 2000  # records of other services: what a CloudTrail stream mostly is


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """A log group of the demo."""

    account: str
    region: str
    name: str

    def __str__(self) -> str:
        return f"{self.account}:{self.region}:{self.name}"


@dataclass(frozen=True, slots=True)
class Expected:
    """What must become of a log group: `key` is None where none may be put on it, `failure` is the class that must explain it."""

    tenant: str | None
    state: str
    key: str | None = None
    failure: str | None = None


@dataclass(slots=True)
class Scene:
    """All that the demo publishes, and what must come of it. `requested` exist without any event: they are asked for over REST."""

    tenant_file: str
    groups: dict[Group, Expected] = field(default_factory=dict)
    events: list[bytes] = field(default_factory=list)
    malformed: list[bytes | None] = field(default_factory=list)
    irrelevant: list[bytes] = field(default_factory=list)
    requested: list[Group] = field(default_factory=list)


async def build_scene(aws: AwsSandbox, *, groups_per_lane: int) -> Scene:
    """Create roles, keys and log groups in the sandbox AWS, and write the events that CloudTrail would."""
    for account in ACCOUNTS:
        await aws.create_role(account, ROLE, EXTERNAL_ID)
    keys = {
        tenant: {
            region: await aws.create_key(
                account, region, policy=logs_key_policy(ACCOUNTS[0], region, others=ACCOUNTS[1:])
            )
            for region in REGIONS
        }
        for tenant, account in (("acme", ACCOUNTS[0]), ("globex", ACCOUNTS[1]), ("initech", ACCOUNTS[1]))
    }
    await aws.set_key_state(keys["initech"]["us-east-1"], "Disabled")
    scene = Scene(_tenant_file(keys))
    dice = random.Random(_SEED)  # noqa: S311  a demo's dice
    for account in ACCOUNTS:
        for region in REGIONS:
            await _add_lane(scene, aws, account, region, keys, groups_per_lane)
    await _add_refused(scene, aws)
    await _add_requested(scene, aws, keys)
    scene.events += dice.sample(scene.events, len(scene.events) // 10)  # CloudTrail delivers some events twice
    dice.shuffle(scene.events)
    scene.malformed = _malformed(scene.events[0])
    callers = dice.choices(sorted(scene.groups), k=_IRRELEVANT)
    scene.irrelevant = [_event(group, "GetObject", {"key": group.name}, source="s3.amazonaws.com") for group in callers]
    return scene


async def _add_lane(
    scene: Scene, aws: AwsSandbox, account: str, region: str, keys: Mapping[str, Mapping[str, str]], count: int
) -> None:
    """Log groups of one account and Region that end under their tenant's key."""
    new: list[NewLogGroup] = []
    for i in range(count):
        tenant = ("acme", "globex", "initech")[i % (3 if (account, region) == (ACCOUNTS[1], REGIONS[0]) else 2)]
        name = f"/{tenant if tenant != 'initech' else 'shared'}/{_SERVICES[i % len(_SERVICES)]}-{i:03d}"
        tags = {"team": "initech"} if tenant == "initech" else {}
        new.append(NewLogGroup(name=name, tags=tags))
        group = Group(account, region, name)
        scene.groups[group] = Expected(tenant, "sealed", keys[tenant][region])
        scene.events.append(_created(group, tags))
    await aws.create_log_groups(account, region, new)


async def _add_refused(scene: Scene, aws: AwsSandbox) -> None:
    """Log groups that must be left alone, each for a reason of its own."""
    us = REGIONS[1]
    cases: Sequence[tuple[Group, dict[str, str], Expected]] = [
        (Group(ACCOUNTS[0], us, "/nobody/knows"), {}, Expected(None, "failed", failure="unknown-tenant")),
        (Group("777788889999", us, "/acme/elsewhere"), {}, Expected(None, "failed", failure="account-not-listed")),
        (Group(ACCOUNTS[0], ELSEWHERE, "/acme/far"), {}, Expected("acme", "failed", failure="no-key-in-region")),
        (
            Group(ACCOUNTS[1], us, "/shared/vault"),
            {"team": "initech"},
            Expected("initech", "failed", failure="key-not-found"),
        ),
        (Group(ACCOUNTS[0], us, "/acme/scratch/tmp"), {}, Expected(None, "excluded")),
        (Group(ACCOUNTS[1], us, "aws/spans"), {}, Expected(None, "excluded")),
    ]
    for group, tags, expected in cases:
        await aws.create_log_group(group.account, group.region, group.name, tags)
        scene.groups[group] = expected
        scene.events.append(_created(group, tags))
    gone = Group(ACCOUNTS[0], us, "/acme/already-deleted")
    scene.groups[gone] = Expected("acme", "vanished", failure="log-group-not-found")
    scene.events.append(_created(gone, {}))


async def _add_requested(scene: Scene, aws: AwsSandbox, keys: Mapping[str, Mapping[str, str]]) -> None:
    """Log groups whose events were lost: somebody asks for them by hand."""
    for name in ("/globex/event-was-lost-1", "/globex/event-was-lost-2"):
        group = Group(ACCOUNTS[0], REGIONS[0], name)
        await aws.create_log_group(group.account, group.region, name)
        scene.groups[group] = Expected("globex", "sealed", keys["globex"][group.region])
        scene.requested.append(group)


def _malformed(good: bytes) -> list[bytes | None]:
    """Records that are no events: cut off, noise, of the wrong type, contradicting themselves, and a tombstone."""
    contradiction = json.loads(good)
    contradiction["region"] = "sa-east-1"
    noise = base64.b85encode(random.Random(_SEED).randbytes(200))  # noqa: S311  noise, not secrets
    return [good[: len(good) // 2], noise, b"[1, 2, 3]", b'"CreateLogGroup"', json.dumps(contradiction).encode(), None]


def _created(group: Group, tags: Mapping[str, str]) -> bytes:
    return _event(group, "CreateLogGroup", {"logGroupName": group.name} | ({"tags": dict(tags)} if tags else {}))


def _event(group: Group, name: str, parameters: Mapping[str, Any], source: str = "logs.amazonaws.com") -> bytes:
    """A CloudTrail record in EventBridge's envelope."""
    at = "2026-01-01T00:00:00Z"
    record = {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "AssumedRole",
            "principalId": "AROAEXAMPLE:deploy",
            "arn": f"arn:aws:sts::{group.account}:assumed-role/deploy/deploy",
            "accountId": group.account,
        },
        "eventTime": at,
        "eventSource": source,
        "eventName": name,
        "awsRegion": group.region,
        "sourceIPAddress": "192.0.2.10",
        "userAgent": "terraform",
        "requestParameters": parameters,
        "responseElements": None,
        "readOnly": False,
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": group.account,
        "eventCategory": "Management",
    }
    envelope = {
        "version": "0",
        "detail-type": "AWS API Call via CloudTrail",
        "source": f"aws.{source.split('.', maxsplit=1)[0]}",
        "account": group.account,
        "time": at,
        "region": group.region,
        "resources": [],
        "detail": record,
    }
    return json.dumps(envelope).encode()


def _tenant_file(keys: Mapping[str, Mapping[str, str]]) -> str:
    def tenant(id_: str, **rule: Any) -> dict[str, Any]:
        return {"id": id_, "keys": dict(keys[id_]), "rules": [{"accounts": list(ACCOUNTS), **rule}]}

    content = {
        "version": 1,
        "exclude": [{"names": ["*/scratch/*"], "reason": "scratch space holds no customer data"}],
        "tenants": [
            tenant("acme", names=["/acme/*"]),
            tenant("globex", names=["/globex/*"]),
            tenant("initech", names=["/shared/*"], tags={"team": ["initech"]}),
        ],
    }
    return yaml.safe_dump(content, sort_keys=False)
