"""Who calls: from credentials to an account, the role sessions that STS has issued, and which roles may be assumed.

moto lets anybody assume any role, existing or not. Signatures are not verified: what identifies a caller is its access key id and,
for a role's session, its session token.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from moto.core.request import Request
from moto.core.responses import ActionResult
from moto.iam.exceptions import NotFoundException
from moto.iam.models import Role, iam_backends
from moto.sts.models import AssumedRole
from moto.sts.responses import TokenResponse

from service.domain.log_group import partition_of
from service.sandbox.aws.errors import AwsError, Trouble, not_authorized_error, trouble_error
from service.sandbox.aws.policy import PolicyRequest, account_principal, is_allowed
from service.sandbox.aws.shapes import check_request

_SESSION_KEY_PREFIX: Final = "ASIA"  # of the access key ids that STS issues; a user's start with AKIA
_DEFAULT_SESSION_S: Final = 3600  # AssumeRole's default, a role's default maximum, and the maximum of a chained session


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who a call is from, and so the account that it acts in. `tags` are those of its session."""

    account: str
    arn: str
    user_id: str
    role_arn: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def principals(self, region: str) -> frozenset[tuple[str, str]]:
        """Every name by which a policy can mean this caller."""
        names = {self.account, account_principal(self.account, region), self.arn, self.role_arn}
        return frozenset(("AWS", name) for name in names if name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    caller: Caller
    token: str
    expires_at_s: float


class Sessions:
    """The sandbox's own caller, and the role sessions that it has issued."""

    def __init__(self, *, account: str, now_s: Callable[[], float]) -> None:
        self.account = account
        self._now_s = now_s
        self._sessions: dict[str, _Session] = {}

    def caller(self, *, service: str, region: str, access_key_id: str, token: str | None) -> Caller:
        """Who calls with these credentials. Raises AwsError for an expired or unknown session.

        Any credentials that are not a session's are those of a user in the sandbox's own account.
        """
        session = self._sessions.get(access_key_id)
        if session is None and token is None and not access_key_id.startswith(_SESSION_KEY_PREFIX):
            return self.own_caller(self.account, region)
        if session is None or session.token != token:
            raise trouble_error(service, Trouble.UNKNOWN_TOKEN)
        if session.expires_at_s <= self._now_s():
            raise trouble_error(service, Trouble.EXPIRED_TOKEN)
        return session.caller

    @staticmethod
    def own_caller(account: str, region: str) -> Caller:
        """A user of an account, who needs no role there."""
        return Caller(
            account=account,
            arn=f"arn:{partition_of(region)}:iam::{account}:user/sandbox",
            user_id="AIDASANDBOXUSER00001",
        )

    def issue(self, role: AssumedRole, *, duration_s: int, tags: Mapping[str, str]) -> None:
        """Let the credentials of an assumed role call, for `duration_s`."""
        caller = Caller(account=role.account_id, arn=role.arn, user_id=role.user_id, role_arn=role.role_arn, tags=tags)
        self._sessions[role.access_key_id] = _Session(
            caller=caller, token=role.session_token, expires_at_s=self._now_s() + duration_s
        )

    def expire(self, account: str | None) -> None:
        """End every session of an account now, or of all accounts; later ones are not touched."""
        for access_key_id, session in self._sessions.items():
            if account in (None, session.caller.account):
                self._sessions[access_key_id] = replace(session, expires_at_s=self._now_s())

    def reset(self) -> None:
        """Forget every session: its credentials are unknown from now on."""
        self._sessions.clear()


class SandboxSts(TokenResponse):
    """STS for one call: assumes only roles that exist and whose trust policy lets the caller, and lets the caller tag the session."""

    def __init__(self, caller: Caller, *, sessions: Sessions, tags: Mapping[str, str]) -> None:
        super().__init__()
        self._caller = caller
        self._sessions = sessions
        self._tags = tags

    def answer(self, request: Request) -> Any:
        """Answer as moto's `dispatch` does, with (status, headers, body)."""
        return self._dispatch(request)

    def get_caller_identity(self) -> ActionResult:
        return ActionResult({"UserId": self._caller.user_id, "Account": self._caller.account, "Arn": self._caller.arn})

    def assume_role_with_web_identity(self) -> ActionResult:
        """There are no identity providers here: as at AWS where the cluster's is not registered."""
        raise AwsError(
            "InvalidIdentityToken", "No OpenIDConnect provider found in your account for the token's issuer."
        )

    def assume_role(self) -> ActionResult:
        check_request("sts", "AssumeRole", dict(self.params), error_code="ValidationError")
        role_arn = self._get_param("RoleArn")
        role = self._assumable(role_arn, self._get_param("ExternalId"))
        duration_s = self._get_int_param("DurationSeconds", _DEFAULT_SESSION_S)
        longest_s = (
            _DEFAULT_SESSION_S if self._caller.role_arn else int(role.max_session_duration or _DEFAULT_SESSION_S)
        )
        if duration_s > longest_s:
            message = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
            raise AwsError("ValidationError", message)
        result = super().assume_role()
        answer: Any = result.result
        self._sessions.issue(answer["Credentials"], duration_s=duration_s, tags=self._tags)
        return result

    def _assumable(self, role_arn: str, external_id: str | None) -> Role:
        """The role, unless it is absent or does not trust the caller: AWS answers both alike."""
        role = find_role(role_arn)
        trust = json.loads(role.assume_role_policy_document) if role else {}
        for action, context in assume_role_actions(external_id, self._tags):
            request = PolicyRequest(principals=self._caller.principals(self.region), action=action, context=context)
            if role is None or not is_allowed(trust, request):
                raise not_authorized_error("sts", caller_arn=self._caller.arn, action=action, resource=role_arn)
        assert role is not None  # noqa: S101  refused above
        return role


def assume_role_actions(external_id: str | None, tags: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """What AssumeRole has to be allowed by the caller's policies and by the role's trust policy, each with its context.

    Whether the check of sts:TagSession sees the external id is not confirmed, so it does not.
    """
    yield "sts:AssumeRole", {} if external_id is None else {"sts:ExternalId": external_id}
    if tags:
        yield "sts:TagSession", {f"aws:RequestTag/{key}": value for key, value in tags.items()}


def find_role(role_arn: str) -> Role | None:
    """The role of an ARN, if there is one."""
    parts = role_arn.split(":", 5)
    if len(parts) < 6 or parts[2] != "iam":
        return None
    try:
        return iam_backends[parts[4]][parts[1]].get_role_by_arn(role_arn)
    except (KeyError, NotFoundException):  # KeyError: no such partition
        return None


def create_role(
    *,
    account: str,
    name: str,
    external_id: str | None,
    trusted_account: str,
    partition: str,
    trust: str | None = None,
    policy: str | None = None,
) -> str:
    """Create a role that `trusted_account` may assume, with the external id if there is one; the role's ARN.

    `trust` replaces that trust policy. With a `policy` the role may do what it says, without one anything. Both are JSON.
    """
    path, _, short_name = f"/{name.lstrip('/')}".rpartition("/")
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:{partition}:iam::{trusted_account}:root"},
        "Action": "sts:AssumeRole",
    }
    if external_id is not None:
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
    role = iam_backends[account][partition].create_role(
        role_name=short_name,
        assume_role_policy_document=trust or json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
        path=f"{path}/",
        permissions_boundary=None,
        description="",
        tags=[],
        max_session_duration=str(_DEFAULT_SESSION_S),
    )
    if policy is not None:
        role.put_policy("sandbox", policy)
    arn: str = role.arn
    return arn
