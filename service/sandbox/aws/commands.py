"""What whoever sets the scene can ask of the sandbox's AWS beside AWS's own calls: both ends of `POST /_sandbox/command` use these.

Keys are given by ARN, policies as JSON text, times in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import Field

from service.sandbox.aws.faults import Faults
from service.sandbox.aws.quota import Quota

COMMAND_PATH: Final = "/_sandbox/command"

# A header of AWS calls whose value is an account. Whoever sets the scene sends it to act in that account with no role, quota, fault
# or entry in the call log.
OPERATOR_HEADER: Final = "X-Sandbox-Account"

KeyState = Literal[
    "Creating",
    "Enabled",
    "Disabled",
    "PendingDeletion",
    "PendingImport",
    "PendingReplicaDeletion",
    "Unavailable",
    "Updating",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Forget everything: state, sessions, faults, quotas, calls."""

    kind: Literal["reset"] = "reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFaults:
    """Replace the faults in force; the first that match a call apply."""

    faults: tuple[Faults, ...]
    seed: int
    kind: Literal["set_faults"] = "set_faults"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetQuota:
    """Change the quota of one CloudWatch Logs operation, or lift it."""

    operation: str
    quota: Quota | None
    kind: Literal["set_quota"] = "set_quota"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRole:
    """Create a role that the sandbox's own account may assume, or whom `trust` names, and that may do what `policy` says.

    Answers with its ARN.
    """

    account: str
    name: str
    external_id: str | None
    partition: str
    trust: str | None = None
    policy: str | None = None
    kind: Literal["create_role"] = "create_role"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateKey:
    """Create a key; answers with its ARN."""

    account: str
    region: str
    state: KeyState
    spec: str
    usage: str
    policy: str
    kind: Literal["create_key"] = "create_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetKeyState:
    """Put a key into any of KMS's states."""

    key: str
    state: KeyState
    kind: Literal["set_key_state"] = "set_key_state"


@dataclass(frozen=True, slots=True, kw_only=True)
class PutKeyPolicy:
    """Replace a key's policy, at once."""

    key: str
    policy: str
    kind: Literal["put_key_policy"] = "put_key_policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLogGroup:
    """A log group to create, with the key that it is to have: unlike CreateLogGroup, nothing is checked."""

    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    kms_key_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateLogGroups:
    """Create log groups, all in one account and Region; those before one that exists already stay."""

    account: str
    region: str
    log_groups: tuple[NewLogGroup, ...]
    kind: Literal["create_log_groups"] = "create_log_groups"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteLogGroup:
    """Delete a log group."""

    account: str
    region: str
    name: str
    kind: Literal["delete_log_group"] = "delete_log_group"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireSessions:
    """End the role sessions issued so far, in one account or in all."""

    account: str | None
    kind: Literal["expire_sessions"] = "expire_sessions"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCalls:
    """Answers with the call log, oldest first: all of it, or one operation's. A row has the fields of `Call`."""

    operation: str | None
    kind: Literal["read_calls"] = "read_calls"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearCalls:
    """Empty the call log."""

    kind: Literal["clear_calls"] = "clear_calls"


Command = Annotated[
    Reset
    | SetFaults
    | SetQuota
    | CreateRole
    | CreateKey
    | SetKeyState
    | PutKeyPolicy
    | CreateLogGroups
    | DeleteLogGroup
    | ExpireSessions
    | ReadCalls
    | ClearCalls,
    Field(discriminator="kind"),
]
