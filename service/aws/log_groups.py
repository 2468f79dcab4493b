"""The port `LogGroups` over CloudWatch Logs."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from service.aws.clients import AwsClients
from service.aws.credentials import AccountCredentials
from service.domain.log_group import KeyArn, Lane, LogGroup
from service.domain.outcome import CallFailedError, FailureClass
from service.ports import MAX_DESCRIBED, LogGroupPage

_MAX_LISTED: Final = 1000  # log groups; ListLogGroups' limit


class AwsLogGroups:
    """CloudWatch Logs in every account and Region. One call is one request: retries are the caller's."""

    def __init__(self, *, clients: AwsClients, credentials: AccountCredentials) -> None:
        self._clients = clients
        self._credentials = credentials

    async def ready(self, lane: Lane) -> None:
        """Have a session in the account, and a client for the Region. Raises CallFailedError; a cancelled one leaves it to others."""
        await self._clients.ready("logs", lane.region)
        await (await self._credentials.of(lane.account)).get_frozen_credentials()

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
        """The keys of up to MAX_DESCRIBED log groups, by exact name: None for a group without one; groups that do not exist are left out.

        The key is what AWS shows, which may lag a second behind `associate`. Raises CallFailedError, and ValueError for more.
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

    async def page(self, lane: Lane, token: str | None) -> LogGroupPage:
        """The next MAX_DESCRIBED log groups of a lane at most, in order of name; None begins. Raises CallFailedError.

        Without a prefix or a pattern, with which AWS leaves the keys out.
        """
        following = {} if token is None else {"nextToken": token}
        page = await self._call(lane, "describe_log_groups", limit=MAX_DESCRIBED, **following)
        keys = {
            group["logGroupName"]: KeyArn(group["kmsKeyId"]) if group.get("kmsKeyId") else None
            for group in page.get("logGroups", ())
        }
        return LogGroupPage(keys, page.get("nextToken") or None)

    async def with_tag(self, lane: Lane, tag: str, token: str | None) -> tuple[Collection[str], str | None]:
        """Names of up to a thousand log groups that have a tag, and what leads on. Raises CallFailedError."""
        following = {} if token is None else {"nextToken": token}
        page = await self._call(lane, "list_log_groups", logGroupTags=[{"key": tag}], limit=_MAX_LISTED, **following)
        names = [group["logGroupName"] for group in page.get("logGroups", ())]
        return names, page.get("nextToken") or None

    async def _call(self, lane: Lane, operation: str, **params: Any) -> Mapping[str, Any]:
        credentials = await self._credentials.of(lane.account)
        try:
            return await self._clients.call("logs", lane.region, operation, credentials=credentials, **params)
        except CallFailedError as e:
            if e.failure is FailureClass.CREDENTIALS_REJECTED:
                self._credentials.forget(lane.account, credentials)
            raise
