"""The port `Keys` over KMS: DescribeKey and GetKeyPolicy, with the credentials of the log group's account, whose rights on the key count.

What is found is kept for a while, so that a burst of log groups costs one look at their key. Without the rights to look, or with a KMS
that does not answer, nothing is held up: the finding is then that nothing is known.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from service.aws.clients import AwsClients
from service.aws.credentials import AccountCredentials
from service.domain.key import (
    KeyFacts,
    KeyFinding,
    UnknownKey,
    UsableKey,
    absent,
    elsewhere,
    unseen,
    wrong_with,
)
from service.domain.log_group import (
    AccountId,
    InvalidIdentityError,
    KeyArn,
    KeyRef,
    LogGroup,
    key_account,
    key_arn,
    key_arn_in,
    key_region,
)
from service.domain.outcome import CallFailedError, FailureClass
from service.ports import Clock

_LOOK_S: Final = 5.0  # both calls take some 20 ms; a log group must not wait for a KMS that does not answer
# A finding this young is not stale: a hundred refusals of one key cost one more look, not a hundred.
_MIN_AGE_S: Final = 5.0
# Findings kept, of some 2 kB (a policy; 32 kB at most); past it the least recently used is dropped.
_MAX_KEYS: Final = 4096

_log = structlog.get_logger(__name__)

_At = tuple[KeyRef, AccountId]


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found, and when (monotonic seconds)."""

    finding: KeyFinding
    found_at_s: float
    until_s: float


@dataclass(slots=True)
class _Look:
    """A look under way, and how many wait for it: the last one to leave ends it."""

    task: asyncio.Task[KeyFinding]
    waiting: int = 0


class AwsKeys:
    """Keys as KMS shows them in every account and Region."""

    def __init__(
        self,
        *,
        clients: AwsClients,
        credentials: AccountCredentials,
        clock: Clock,
        fresh_s: float,
        recheck_s: float,
        max_keys: int = _MAX_KEYS,
    ) -> None:
        """A good finding is kept for `fresh_s` seconds, and so is the lack of a right to look; every other one for `recheck_s`."""
        self._clients = clients
        self._credentials = credentials
        self._clock = clock
        self._fresh_s = fresh_s
        self._recheck_s = recheck_s
        self._max_keys = max_keys
        self._known: OrderedDict[_At, _Known] = OrderedDict()  # the least recently used first
        self._looks: dict[_At, _Look] = {}

    async def inspect(self, key: KeyRef, log_group: LogGroup) -> KeyFinding:
        """What is known of a key that a log group is to be put under; raises nothing for what AWS answers, or fails to.

        Callers at once share one look. A cancelled caller leaves it to the others.
        """
        if (finding := elsewhere(key, log_group.region)) is not None:
            return finding
        at = (key, log_group.account)
        known = self._known.get(at)
        if known is not None and self._clock.now() < known.until_s:
            self._known.move_to_end(at)
            return known.finding
        look = self._looks.get(at)
        if look is None:
            look = self._looks[at] = _Look(asyncio.create_task(self._find(at)))
        look.waiting += 1
        try:
            return await asyncio.shield(look.task)
        finally:
            look.waiting -= 1
            if not look.waiting:
                look.task.cancel()  # changes nothing where it has ended
                if self._looks.get(at) is look:
                    del self._looks[at]

    def forget(self, key: KeyRef, log_group: LogGroup) -> None:
        """Look at a key anew when it is next asked about: AWS refused it although nothing was found wrong with it.

        A finding of the last few seconds stays, and so does the knowledge that there is no right to look.
        """
        at = (key, log_group.account)
        known = self._known.get(at)
        if known is None or not isinstance(known.finding, UsableKey):
            return
        if self._clock.now() - known.found_at_s >= _MIN_AGE_S:
            del self._known[at]

    async def _find(self, at: _At) -> KeyFinding:
        ref, account = at
        kept_s = self._recheck_s
        try:
            async with asyncio.timeout(_LOOK_S):
                finding = await self._look(ref, account)
        except TimeoutError:
            finding = unseen(ref, FailureClass.SERVICE_UNAVAILABLE, f"KMS did not answer within {_LOOK_S:g} s")
        except CallFailedError as e:
            # Of an alias nothing can be done at all without the right.
            if e.failure is FailureClass.NOT_AUTHORIZED and key_arn_in(ref):
                kept_s = self._fresh_s
            finding = unseen(ref, e.failure, e.detail)
        if isinstance(finding, UsableKey):
            kept_s = self._fresh_s
        if isinstance(finding, UnknownKey):
            _log.warning("key_not_seen", key=ref, account=account, detail=finding.detail, again_in_s=kept_s)
        now_s = self._clock.now()
        self._known[at] = _Known(finding, now_s, now_s + kept_s)
        self._known.move_to_end(at)
        while len(self._known) > self._max_keys:
            self._known.popitem(last=False)
        return finding

    async def _look(self, ref: KeyRef, account: AccountId) -> KeyFinding:
        """Look once. Raises CallFailedError where DescribeKey says neither what the key is like nor that there is none."""
        try:
            answer = await self._call(ref, account, "describe_key", KeyId=ref)
        except CallFailedError as e:
            if e.failure is FailureClass.KEY_NOT_FOUND:
                return absent(ref, e.detail)
            raise
        facts = _facts(ref, answer.get("KeyMetadata", {}))
        if (finding := wrong_with(facts)) is not None:
            return finding
        if key_account(ref) != account:
            unread = f"the key is in account {key_account(ref)}, and KMS shows a policy to callers of that account only"
            return UsableKey(key=facts.arn, unread=unread)
        try:
            answer = await self._call(ref, account, "get_key_policy", KeyId=facts.arn, PolicyName="default")
        except CallFailedError as e:
            return UsableKey(key=facts.arn, unread=e.detail)
        return UsableKey(key=facts.arn, policy=str(answer.get("Policy", "")))

    async def _call(self, ref: KeyRef, account: AccountId, operation: str, **params: Any) -> Mapping[str, Any]:
        credentials = await self._credentials.of(account)
        try:
            return await self._clients.call("kms", key_region(ref), operation, credentials=credentials, **params)
        except CallFailedError as e:
            if e.failure is FailureClass.CREDENTIALS_REJECTED:
                self._credentials.forget(account, credentials)
            raise


def _facts(ref: KeyRef, metadata: Mapping[str, Any]) -> KeyFacts:
    """KeyMetadata as the core knows it. Raises CallFailedError for a key that cannot be the one that was asked for."""
    try:
        arn = key_arn(metadata.get("Arn"))
    except InvalidIdentityError as e:
        raise CallFailedError(FailureClass.UNRECOGNISED, f"describe_key: {e}") from e
    if arn != _expected(ref, arn):
        raise CallFailedError(FailureClass.UNRECOGNISED, f"describe_key: asked for {ref}, KMS showed {arn}")
    return KeyFacts(
        arn=arn,
        state=str(metadata.get("KeyState", "")),
        # CustomerMasterKeySpec is the name that it had before 2021, and still has with some stand-ins.
        spec=str(metadata.get("KeySpec") or metadata.get("CustomerMasterKeySpec", "")),
        usage=str(metadata.get("KeyUsage", "")),
    )


def _expected(ref: KeyRef, arn: KeyArn) -> KeyArn | None:
    """The key ARN that a look at `ref` may show: its own, or for an alias any one of the same account and Region."""
    is_beside = (key_account(arn), key_region(arn)) == (key_account(ref), key_region(ref))
    return key_arn_in(ref) or (arn if is_beside else None)
