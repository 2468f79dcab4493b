"""A local AWS for `logwarden demo` and the tests: CloudWatch Logs, KMS, STS, IAM and DynamoDB that share one state for each account.

It runs in a process of its own (`service.sandbox.aws.server`), built on moto. Beyond moto it has what Logwarden's work meets at AWS:
AssociateKmsKey and exact look-ups, request quotas, key policies, roles with external ids, and faults on demand. What it does not do:

- Signatures are not checked, and IAM permissions only of roles that have policies: a role without one may do anything that key and
  trust policies allow. Of service control policies, boundaries and grants there is nothing; `Faults.not_authorized` stands for them.
- CreateLogGroup has no quota until `set_quota` gives it one, so that setting a scene is quick. KMS, STS and DynamoDB have none.
- Key and trust policies are evaluated with the common condition operators; a call that needs another one is refused.
- Results of stored Insights queries have no key. State is in memory and ends with the process.
"""

import asyncio
import json
import os
import select
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import httpx

from service.sandbox.aws.calls import Call
from service.sandbox.aws.commands import (
    COMMAND_PATH,
    OPERATOR_HEADER,
    ClearCalls,
    Command,
    CreateKey,
    CreateLogGroups,
    CreateRole,
    DeleteLogGroup,
    ExpireSessions,
    KeyState,
    NewLogGroup,
    PutKeyPolicy,
    ReadCalls,
    Reset,
    SetFaults,
    SetKeyState,
    SetQuota,
)
from service.sandbox.aws.faults import Faults
from service.sandbox.aws.policy import Policy, default_key_policy, logs_key_policy
from service.sandbox.aws.quota import Quota
from service.sandbox.errors import SandboxError

__all__ = [
    "OWN_ACCOUNT",
    "AwsSandbox",
    "AwsSandboxError",
    "Call",
    "Faults",
    "NewLogGroup",
    "default_key_policy",
    "logs_key_policy",
]

OWN_ACCOUNT: Final = "999900001111"  # where callers without a role act, unless another one is chosen
START_TIMEOUT_S: Final = 60.0  # it takes 2 s, nearly all of it imports; a busy machine takes longer
COMMAND_TIMEOUT_S: Final = 30.0  # the largest command takes a tenth of a second
STOP_TIMEOUT_S: Final = 5.0  # the process leaves at the end of its stdin; past this it is killed

_PACKAGE_ROOT: Final = Path(__file__).parents[3]
_GROUPS_A_REQUEST: Final = 2_000  # log groups; keeps a command below the 1 MiB that the server reads
_IDENTIFIERS_A_CALL: Final = 50  # DescribeLogGroups' maximum


class AwsSandboxError(SandboxError):
    """The sandbox did not start, has ended, or refused a command. The text says which."""


class AwsSandbox:
    """The handle of a sandbox process. `launch` and `close` block; the other methods may be called from any event loop."""

    def __init__(self, *, process: subprocess.Popen[bytes], endpoint: str, account: str) -> None:
        self._process = process
        self._http = httpx.Client(base_url=endpoint, timeout=COMMAND_TIMEOUT_S, trust_env=False)
        self.endpoint = endpoint
        self.account = account

    @classmethod
    @asynccontextmanager
    async def start(cls, *, account: str = OWN_ACCOUNT, port: int = 0) -> AsyncIterator[Self]:
        """Run a sandbox for the length of an `async with`. Raises AwsSandboxError when it does not start."""
        launching = asyncio.ensure_future(asyncio.to_thread(cls.launch, account=account, port=port))
        try:
            sandbox = await asyncio.shield(launching)
        except asyncio.CancelledError:
            # A thread cannot be interrupted: wait for what it starts, and end that.
            await asyncio.wait([launching])
            if launching.exception() is None:
                await launching.result().stop()
            raise
        try:
            yield sandbox
        finally:
            await sandbox.stop()

    @classmethod
    def launch(cls, *, account: str = OWN_ACCOUNT, port: int = 0) -> Self:
        """Start the process and wait until it listens. Blocks for 2 s. Raises AwsSandboxError.

        `account` is where callers without a role act. `port` on 127.0.0.1; 0 takes a free one.
        """
        process = subprocess.Popen(  # noqa: S603 - our own module, run by this interpreter
            # -P and the path: a `service` package in the user's working directory must not be taken for ours.
            [sys.executable, "-P", "-m", "service.sandbox.aws.server", "--account", account, "--port", str(port)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, (str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH")))),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the service, which still has calls under way here
        )
        try:
            return cls(process=process, endpoint=_ready_line(process)["endpoint"], account=account)
        except BaseException:  # a cancellation or Ctrl-C too: the process has to end with us
            _end(process)
            raise

    @property
    def is_running(self) -> bool:
        """False once the process has ended, for whatever reason."""
        return self._process.poll() is None

    def environment(self, region: str) -> dict[str, str]:
        """The environment variables by which an AWS SDK finds the sandbox, and credentials of its own account."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "sandbox",
            "AWS_SECRET_ACCESS_KEY": "sandbox",
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    async def stop(self) -> None:
        """End the process. A second call does nothing."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """End the process and wait for that: at most STOP_TIMEOUT_S, then it is killed. A second call does nothing."""
        self._http.close()
        _end(self._process)

    async def reset(self) -> None:
        """Back to an AWS with nothing in it: no state, no faults, AWS's own quotas, an empty call log."""
        await self._run(Reset())

    # -- the scene

    async def create_role(
        self,
        account: str,
        name: str,
        external_id: str | None = None,
        *,
        partition: str = "aws",
        trust: Policy | None = None,
        policy: Policy | None = None,
    ) -> str:
        """Create a role (name with path); its ARN. The sandbox's own account may assume it, unless a `trust` policy says otherwise.

        A role with a `policy` may do what that says, one without anything.
        """
        command = CreateRole(
            account=account,
            name=name,
            external_id=external_id,
            partition=partition,
            trust=None if trust is None else json.dumps(trust),
            policy=None if policy is None else json.dumps(policy),
        )
        return str(await self._run(command))

    async def create_key(
        self,
        account: str,
        region: str,
        *,
        enabled: bool = True,
        spec: str = "SYMMETRIC_DEFAULT",
        usage: str = "ENCRYPT_DECRYPT",
        policy: Policy | None = None,
    ) -> str:
        """Create a key; its ARN. Without a policy, one that lets Logs encrypt the log groups of the same account and Region."""
        return str(
            await self._run(
                CreateKey(
                    account=account,
                    region=region,
                    state="Enabled" if enabled else "Disabled",
                    spec=spec,
                    usage=usage,
                    policy=json.dumps(logs_key_policy(account, region) if policy is None else policy),
                )
            )
        )

    async def set_key_state(self, key: str, state: KeyState) -> None:
        """Put a key into any of KMS's states."""
        await self._run(SetKeyState(key=key, state=state))

    async def put_key_policy(self, key: str, policy: Policy) -> None:
        """Replace a key's policy, at once."""
        await self._run(PutKeyPolicy(key=key, policy=json.dumps(policy)))

    async def create_log_group(
        self,
        account: str,
        region: str,
        name: str,
        tags: Mapping[str, str] | None = None,
        kms_key_id: str | None = None,
    ) -> None:
        """Create a log group; unlike CreateLogGroup, nothing is checked, a reserved name or an unusable key included."""
        await self.create_log_groups(account, region, [NewLogGroup(name=name, tags=tags or {}, kms_key_id=kms_key_id)])

    async def create_log_groups(self, account: str, region: str, log_groups: Iterable[str | NewLogGroup]) -> None:
        """Create many log groups, by name or in detail: ten thousand take a second. Those before one that exists already stay."""
        new = [group if isinstance(group, NewLogGroup) else NewLogGroup(name=group) for group in log_groups]
        for part in _parts(new, _GROUPS_A_REQUEST):
            await self._run(CreateLogGroups(account=account, region=region, log_groups=tuple(part)))

    async def delete_log_group(self, account: str, region: str, name: str) -> None:
        """Delete a log group."""
        await self._run(DeleteLogGroup(account=account, region=region, name=name))

    # -- what goes wrong

    async def inject(self, *faults: Faults, seed: int = 0) -> None:
        """Replace the faults in force; the first that match a call apply to it. The same seed and calls give the same faults."""
        await self._run(SetFaults(faults=faults, seed=seed))

    async def clear_faults(self) -> None:
        """Let everything go right again; a change of key that does not show yet stays hidden until its time."""
        await self.inject()

    async def set_quota(self, operation: str, *, per_second: float | None, burst: float | None = None) -> None:
        """Change the quota of a CloudWatch Logs operation, for each account and Region; None lifts it.

        `burst` is how many calls may come at once, `per_second` (at least one) unless given. Buckets start full.
        """
        quota = None if per_second is None else Quota(per_second=per_second, burst=burst or max(1.0, per_second))
        await self._run(SetQuota(operation=operation, quota=quota))

    async def expire_sessions(self, account: str | None = None) -> None:
        """End the role sessions issued so far, in one account or in all: their calls get ExpiredTokenException."""
        await self._run(ExpireSessions(account=account))

    # -- what came of it

    async def keys_of(self, account: str, region: str, names: Iterable[str]) -> dict[str, str | None]:
        """The key that DescribeLogGroups shows for each log group; absent log groups are left out.

        These are real calls, but without quota, faults or entry in the call log.
        """
        keys: dict[str, str | None] = {}
        for part in _parts(list(names), _IDENTIFIERS_A_CALL):
            answer = await asyncio.to_thread(self._describe_log_groups, account, region, part)
            keys |= {group["logGroupName"]: group.get("kmsKeyId") for group in answer["logGroups"]}
        return keys

    async def calls(self, operation: str | None = None) -> list[Call]:
        """The call log, oldest first: all of it, or one operation's. It holds the last 100,000 calls."""
        return [Call(*row) for row in await self._run(ReadCalls(operation=operation))]

    async def clear_calls(self) -> None:
        """Empty the call log."""
        await self._run(ClearCalls())

    async def _run(self, command: Command) -> Any:
        return await asyncio.to_thread(self._post, COMMAND_PATH, asdict(command), {})

    def _describe_log_groups(self, account: str, region: str, names: Sequence[str]) -> Any:
        scope = f"sandbox/20000101/{region}/logs/aws4_request"
        headers = {
            "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=unchecked",
            "X-Amz-Target": "Logs_20140328.DescribeLogGroups",
            OPERATOR_HEADER: account,
        }
        return self._post("/", {"logGroupIdentifiers": names}, headers)

    def _post(self, path: str, content: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        if not self.is_running:
            raise AwsSandboxError(f"the sandbox has ended, with status {self._process.returncode}")
        try:
            response = self._http.post(path, json=content, headers=dict(headers))
        except httpx.TransportError as e:
            raise AwsSandboxError(f"the sandbox does not answer: {e}") from e
        if response.is_error:
            raise AwsSandboxError(f"the sandbox refused {content.get('kind', path)}: {response.text}")
        return response.json()


_Item = TypeVar("_Item")


def _parts(items: Sequence[_Item], size: int) -> list[Sequence[_Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _ready_line(process: subprocess.Popen[bytes]) -> dict[str, str]:
    assert process.stdout is not None  # noqa: S101 - asked for in launch
    readable, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
    line = process.stdout.readline() if readable else b""
    if not line:
        why = "ended" if readable else f"was not ready in {START_TIMEOUT_S:g} s"
        raise AwsSandboxError(f"the sandbox's AWS {why}; what it had to say is on stderr")
    ready: dict[str, str] = json.loads(line)
    return ready


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:  # closes its pipes and reaps it
        assert process.stdin is not None  # noqa: S101 - asked for in launch
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
