"""One call to an AWS API as it comes off the wire, before anybody knows whether to answer it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from service.sandbox.aws.errors import AwsError, Trouble, trouble_error
from service.sandbox.aws.identity import Caller

_UNSIGNED: Final = "AssumeRoleWithWebIdentity"
SERVICES: Final = frozenset({"logs", "kms", "sts", "iam", "dynamodb"})
_CREDENTIAL = re.compile(
    r"Credential=(?P<key>[^/,\s]+)/\d{8}/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9-]+)/aws4_request"
)
_TAG_KEY = re.compile(r"Tags\.member\.(\d+)\.Key")
_LOG_GROUP_IN_ARN = re.compile(r":log-group:([^:]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What a request says of itself. `headers` ignore case. `params` stay empty for DynamoDB, where nobody here looks at them."""

    headers: Mapping[str, str]
    body: bytes
    service: str
    region: str
    operation: str
    access_key_id: str
    session_token: str | None
    params: Mapping[str, Any]

    @property
    def log_group(self) -> str | None:
        """The one log group that the call is about."""
        if name := self.params.get("logGroupName"):
            return str(name)
        match = _LOG_GROUP_IN_ARN.search(str(self.params.get("resourceIdentifier", "")))
        return match[1] if match else None

    @property
    def key(self) -> str | None:
        return self.params.get("kmsKeyId") or self.params.get("KeyId")

    @property
    def session_tags(self) -> Mapping[str, str]:
        """The tags of the session that AssumeRole asks for, by the query protocol's names of a list's members."""
        values = {
            m[1]: str(self.params.get(f"Tags.member.{m[1]}.Value", ""))
            for m in map(_TAG_KEY.fullmatch, self.params)
            if m
        }
        return {str(self.params[f"Tags.member.{number}.Key"]): value for number, value in values.items()}

    @property
    def role(self) -> str | None:
        return self.params.get("RoleArn")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiCall:
    """A call whose caller is known. `effect_delay_s` is how long its effect stays invisible."""

    envelope: Envelope
    caller: Caller
    effect_delay_s: float = 0.0

    @property
    def params(self) -> Mapping[str, Any]:
        return self.envelope.params

    @property
    def region(self) -> str:
        return self.envelope.region


def read_envelope(headers: Mapping[str, str], body: bytes) -> Envelope:
    """Read a request. Raises AwsError when it is not signed, not for a service that is here, or cannot be parsed."""
    credential = _CREDENTIAL.search(headers.get("Authorization", ""))
    if credential is None:
        return _token_exchange(headers, body)
    service = credential["service"]
    if service not in SERVICES:
        raise AwsError(
            "UnknownOperationException", f"The sandbox has no {service}: only {', '.join(sorted(SERVICES))}."
        )
    target = headers.get("X-Amz-Target")
    params = (
        _json(body)
        if target and service != "dynamodb"
        else {}
        if target
        else dict(parse_qsl(body.decode(errors="replace")))
    )
    return Envelope(
        headers=headers,
        body=body,
        service=service,
        region=credential["region"],
        operation=target.rpartition(".")[2] if target else params.get("Action", ""),
        access_key_id=credential["key"],
        session_token=headers.get("X-Amz-Security-Token"),
        params=params,
    )


def _token_exchange(headers: Mapping[str, str], body: bytes) -> Envelope:
    """The one call that nobody signs: a pod's token for a session. It names no Region. Raises AwsError for any other call."""
    params = dict(parse_qsl(body.decode(errors="replace")))
    if params.get("Action") != _UNSIGNED:
        raise trouble_error("logs", Trouble.MISSING_TOKEN)
    return Envelope(
        headers=headers,
        body=body,
        service="sts",
        region="us-east-1",
        operation=_UNSIGNED,
        access_key_id="",
        session_token=None,
        params=params,
    )


def _json(body: bytes) -> dict[str, Any]:
    try:
        params = json.loads(body or b"{}")
    except ValueError as e:
        raise AwsError("SerializationException", f"The request is not JSON: {e}") from e
    if not isinstance(params, dict):
        raise AwsError("SerializationException", "The request is not a JSON object.")
    return params
