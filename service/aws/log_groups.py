"""The port `LogGroups` over CloudWatch Logs."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from service.aws.clients import AwsClients
from service.aws.credentials import AccountCredentials, OwnCredentials
from service.domain.log_group import AccountId, KeyArn, Lane, LogGroup
from service.domain.outcome import CallFailedError, FailureClass
from service.ports import Clock

MAX_DESCRIBED: Final = 50  # log groups; DescribeLogGroups' limit for logGroupIdentifiers


class AwsLogGroups:
    """CloudWatch Logs in every account and Region. One call is one request: retries are the caller's."""

    def __init__(self, *, clients: AwsClients, credentials: AccountCredentials) -> None:
        self._clients = clients
        self._credentials = credentials

    async def associate(self, log_group: LogGroup, key: KeyArn) -> None:
        """Call AssociateKmsKey once. Idempotent. Raises CallFailedError. A cancelled call may or may not have taken effect.

        The group is named by its ARN, not by its name: a name means whatever account the credentials belong to, so wrong ones
        would put the key on that account's group of the same name; with an ARN, AWS refuses.
        """
        await self._call(log_group.lane, "associate_kms_key", resourceIdentifier=log_group.arn, kmsKeyId=key)

    async def tags_of(self, log_group: LogGroup) -> Mapping[str, str]:
        """The group's tags as they are now. Raises CallFailedError."""
        answer = await self._call(log_group.lane, "list_tags_for_resource", resourceArn=log_group.arn)
        tags: Mapping[str, str] = answer.get("tags", {})
        return tags

    async def describe(self, lane: Lane, names: Collection[str]) -> Mapping[str, KeyArn | None]:
        """The keys of up to 50 log groups, by exact name: None for a group without one; groups that do not exist are left out.

        The key is what AWS shows, which may lag a second behind `associate`. Raises CallFailedError, and ValueError for more than 50.
        """
        if len(names) > MAX_DESCRIBED:
            raise ValueError(f"{len(names)} log groups: DescribeLogGroups takes {MAX_DESCRIBED} at a time")
        keys: dict[str, KeyArn | None] = {}
        page: Mapping[str, Any] = {}
        wanted = frozenset(names)
        while wanted:
            token = {"nextToken": page["nextToken"]} if page else {}
            page = await self._call(lane, "describe_log_groups", logGroupIdentifiers=sorted(wanted), **token)
            for group in page.get("logGroups", ()):
                if group["logGroupName"] in wanted:
                    key = group.get("kmsKeyId")
                    keys[group["logGroupName"]] = KeyArn(key) if key else None
            if not page.get("nextToken"):
                break
        return keys

    async def _call(self, lane: Lane, operation: str, **params: Any) -> Mapping[str, Any]:
        credentials = await self._credentials.of(lane.account)
        try:
            return await self._clients.call("logs", lane.region, operation, credentials=credentials, **params)
        except CallFailedError as e:
            if e.failure is FailureClass.CREDENTIALS_REJECTED:
                self._credentials.forget(lane.account, credentials)
            raise


@asynccontextmanager
async def open_log_groups(
    *,
    clock: Clock,
    own_account: AccountId | None,
    role_name: str,
    external_id: str | None,
    role_session_name: str,
    sts_region: str,
    endpoint_url: str | None,
    connect_timeout_s: float,
    read_timeout_s: float,
    max_in_flight: int,
    user_agent: str,
) -> AsyncIterator[AwsLogGroups]:
    """Open CloudWatch Logs, and close every connection at the end; nothing is sent before the first call.

    `own_account` is the account of our own credentials, None to ask STS. `role_name` may have a path. `endpoint_url` replaces
    every endpoint of AWS. `max_in_flight` is the size of each Region's connection pool. `user_agent` is added to botocore's own.
    """
    async with AwsClients(
        own_region=sts_region,
        endpoint_url=endpoint_url,
        connect_timeout_s=connect_timeout_s,
        read_timeout_s=read_timeout_s,
        max_in_flight=max_in_flight,
        user_agent=user_agent,
    ) as clients:
        credentials = AccountCredentials(
            clients=clients,
            own=OwnCredentials(chain=clients.credential_chain, clock=clock),
            clock=clock,
            own_account=own_account,
            role_name=role_name,
            role_session_name=role_session_name,
            external_id=external_id,
            sts_region=sts_region,
        )
        yield AwsLogGroups(clients=clients, credentials=credentials)
