"""What it costs to work again what is finished."""

import asyncio
import time

from service.domain.command import EnsureCommand, Trigger
from service.domain.log_group import LogGroup
from service.ports import MAX_DESCRIBED
from service.sandbox.aws.commands import NewLogGroup
from service.sandbox.aws.sandbox import AwsSandbox
from tests.benchmarks.result import Result
from tests.benchmarks.stage import deployed, joined, publish
from tests.support.organisation import Group, Organisation

_AGE_MS = 3_600_000  # of the commands: what their events showed is not believed any more


async def replay(is_quick: bool) -> list[Result]:
    """10,000 commands of one lane, an hour old, whose log groups are under their keys: the work topic, read again from its beginning.

    Counted by the log of the sandbox AWS, once every command has its outcome: AssociateKmsKey calls, of which there should be none, and
    DescribeLogGroups calls over the fewest that there can be, one for 50 groups: the first ones go before all commands have been read.
    """
    count = 1_000 if is_quick else 10_000
    organisation = Organisation(("111122223333",), ("eu-west-1",))
    groups = [Group("111122223333", "eu-west-1", f"/north/app-{number:05d}") for number in range(count)]
    async with AwsSandbox.start() as aws, deployed(aws, organisation) as deployment, deployment.replica():
        key = organisation.keys["north", "eu-west-1"]
        finished = [NewLogGroup(name=group.name, kms_key_id=key) for group in groups]
        await aws.create_log_groups("111122223333", "eu-west-1", finished)
        await joined(deployment, 1)
        at_ms = round(time.time() * 1000) - _AGE_MS
        commands = [
            EnsureCommand(
                log_group=LogGroup.of(group.account, group.region, group.name),
                trigger=Trigger.CREATED,
                accepted_at_ms=at_ms,
                shown_key="",
            )
            for group in groups
        ]
        started = time.monotonic()
        work_topic = deployment.settings.work_topic
        await publish(
            deployment, work_topic, [c.to_bytes() for c in commands], keys=[c.partition_key for c in commands]
        )
        outcomes = await deployment.final_outcomes(groups)
        took_s = time.monotonic() - started
        associated, described = await asyncio.gather(aws.calls("AssociateKmsKey"), aws.calls("DescribeLogGroups"))
    assert {outcome["state"] for outcome in outcomes.values()} == {"already-sealed"}
    details = {"commands": count, "looks": len(described), "took_s": took_s}
    return [
        Result(name="replay-associations", value=len(associated), at_most=0, details=details),
        Result(name="replay-looks", value=len(described) / (count / MAX_DESCRIBED), at_most=1.05, details=details),
    ]
