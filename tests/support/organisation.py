"""A small organisation in the sandbox AWS: accounts, keys, tenants, log groups, and the events about them."""

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import cycle, product

import yaml

from service.sandbox.aws.policy import logs_key_policy
from service.sandbox.aws.sandbox import AwsSandbox
from tests.support.iam import document

ROLE, EXTERNAL_ID = "logwarden", "for-tests"


@dataclass(frozen=True, slots=True, order=True)
class Group:
    account: str
    region: str
    name: str

    @property
    def lane(self):
        return self.account, self.region


@dataclass(slots=True)
class Organisation:
    """Tenants `north` and `south` share every account; a group's name says whose it is."""

    accounts: tuple[str, ...]
    regions: tuple[str, ...]
    tenants: tuple[str, ...] = ("north", "south")
    keys: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def lanes(self):
        return list(product(self.accounts, self.regions))

    async def create(self, aws: AwsSandbox) -> "Organisation":
        for account in self.accounts:
            # With the rights of k8s/iam and no others: whatever the service comes to call, in any test, they have to be enough.
            await aws.create_role(account, ROLE, EXTERNAL_ID, policy=document("member-role"))
        for tenant, region in product(self.tenants, self.regions):
            policy = logs_key_policy(self.accounts[0], region, others=self.accounts[1:])
            self.keys[tenant, region] = await aws.create_key(self.accounts[0], region, policy=policy)
        return self

    def tenant_file(self) -> str:
        tenants = [
            {
                "id": tenant,
                "keys": {region: self.keys[tenant, region] for region in self.regions},
                "rules": [{"accounts": list(self.accounts), "names": [f"/{tenant}/*"]}],
            }
            for tenant in self.tenants
        ]
        return yaml.safe_dump({"version": 1, "tenants": tenants})

    def groups(self, count: int) -> list[Group]:
        """This many log groups, spread evenly over lanes and tenants."""
        lanes = self.lanes
        names = [f"/{self.tenants[i // len(lanes) % len(self.tenants)]}/app-{i:05d}" for i in range(count)]
        return [Group(account, region, name) for name, (account, region) in zip(names, cycle(lanes), strict=False)]

    async def create_groups(self, aws: AwsSandbox, groups: list[Group]) -> None:
        for (account, region), names in by_lane(groups).items():
            await aws.create_log_groups(account, region, names)

    def key_of(self, group: Group) -> str:
        return self.keys[group.name.split("/")[1], group.region]

    async def wrong(self, aws: AwsSandbox, groups: list[Group]) -> dict[Group, str | None]:
        """The groups that are not under their own tenant's key, with the key that DescribeLogGroups shows."""
        lanes = by_lane(groups)
        shown = await asyncio.gather(*(aws.keys_of(*lane, names) for lane, names in lanes.items()))
        keys = {
            Group(*lane, name): key for lane, of_lane in zip(lanes, shown, strict=True) for name, key in of_lane.items()
        }
        return {group: keys.get(group) for group in groups if keys.get(group) != self.key_of(group)}


def by_lane(groups: list[Group]) -> dict[tuple[str, str], list[str]]:
    lanes = defaultdict(list)
    for group in groups:
        lanes[group.lane].append(group.name)
    return lanes


def created(group: Group) -> bytes:
    """A bare CloudTrail record of CreateLogGroup."""
    return json.dumps(
        {
            "eventVersion": "1.11",
            "userIdentity": {"type": "AssumedRole", "accountId": group.account},
            "eventTime": "2026-01-01T00:00:00Z",
            "eventSource": "logs.amazonaws.com",
            "eventName": "CreateLogGroup",
            "awsRegion": group.region,
            "requestParameters": {"logGroupName": group.name},
            "responseElements": None,
            "recipientAccountId": group.account,
        }
    ).encode()
