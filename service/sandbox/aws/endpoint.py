"""The road of every call to the sandbox's AWS: who calls, the quota, the injected faults, the work, the call log.

It knows nothing of HTTP servers: headers and a body come in, an `Answer` or a reset connection goes out. Time and sleep are injected.
All calls run in one event loop and are worked one at a time, so what happens to state needs no lock.
"""

import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Final, assert_never

from moto.core.base_backend import BackendDict
from moto.core.exceptions import JsonRESTError
from moto.core.model_instances import reset_model_data

from service.sandbox.aws import kms
from service.sandbox.aws.call import ApiCall, Envelope, read_envelope
from service.sandbox.aws.calls import CONNECTION_RESET, OK, Call
from service.sandbox.aws.commands import OPERATOR_HEADER
from service.sandbox.aws.errors import (
    Answer,
    AwsError,
    Trouble,
    error_answer,
    json_answer,
    not_authorized_error,
    trouble_error,
)
from service.sandbox.aws.faults import FaultPlan, Mishap
from service.sandbox.aws.identity import Sessions
from service.sandbox.aws.logs import LogGroups
from service.sandbox.aws.moto import moto_answer
from service.sandbox.aws.permissions import refuse_unpermitted
from service.sandbox.aws.policy import log_group_arn
from service.sandbox.aws.quota import Quotas

CALL_LOG_LENGTH: Final = 100_000  # calls, some 30 MB; the oldest are forgotten

_CHANGES_OF_KEY: Final = frozenset({"AssociateKmsKey", "DisassociateKmsKey"})
_ERROR_CODE = re.compile(rb'"__type": ?"(?:[^"]*#)?(\w+)"|<Code>(\w+)</Code>')
_TROUBLE_BY_MISHAP: Final = {
    Mishap.THROTTLED: Trouble.THROTTLED,
    Mishap.SERVICE_UNAVAILABLE: Trouble.SERVICE_UNAVAILABLE,
    Mishap.OPERATION_ABORTED: Trouble.OPERATION_ABORTED,
    Mishap.INTERNAL_FAILURE: Trouble.INTERNAL_FAILURE,
}
_FRONT_END_503: Final = Answer(
    status=HTTPStatus.SERVICE_UNAVAILABLE,
    content_type="text/html",
    body=b"<html><body><b>Http/1.1 Service Unavailable</b></body></html>",
)


class _ConnectionReset(Exception):  # noqa: N818 - what the client sees, not an error of the sandbox
    pass


class Endpoint:
    """Every service, account and Region of the sandbox's AWS."""

    def __init__(self, *, account: str, now_s: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        self._now_s = now_s
        self._sleep = sleep
        self.sessions = Sessions(account=account, now_s=now_s)
        self.log_groups = LogGroups(now_s=now_s)
        self.quotas = Quotas()
        self.faults = FaultPlan()
        self.calls = deque[Call](maxlen=CALL_LOG_LENGTH)
        self._changing: set[tuple[str, str, str | None]] = set()
        self._operations = {
            **{("logs", name): operation for name, operation in self.log_groups.operations.items()},
            **{("kms", name): operation for name, operation in kms.OPERATIONS.items()},
        }

    def reset(self) -> None:
        """Back to an AWS with nothing in it: no state, no faults, AWS's own quotas, an empty call log."""
        BackendDict.reset()
        reset_model_data()
        self.log_groups.reset()
        self.sessions.reset()
        self.quotas.reset()
        self.faults.set((), seed=0)
        self.calls.clear()

    async def answer(self, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """Answer a call; None stands for a reset connection. `headers` ignore case.

        A cancelled call may or may not have been worked, and is not in the call log.
        """
        started_s = self._now_s()
        try:
            envelope = read_envelope(headers, body)
        except AwsError as e:
            return error_answer("logs", e)
        if operator_account := headers.get(OPERATOR_HEADER):
            return self._answer_to_operator(envelope, operator_account)
        account, caller_arn, answer, result = "", "", None, CONNECTION_RESET
        try:
            caller = self.sessions.caller(
                service=envelope.service,
                region=envelope.region,
                access_key_id=envelope.access_key_id,
                token=envelope.session_token,
            )
            account, caller_arn = caller.account, caller.arn
            answer = await self._answer_with_faults(ApiCall(envelope=envelope, caller=caller))
            result = OK if answer.status < HTTPStatus.BAD_REQUEST else _error_code(answer)
        except AwsError as e:
            answer, result = error_answer(envelope.service, e), e.code
        except _ConnectionReset:
            pass
        self.calls.append(
            Call(
                started_s=started_s,
                ended_s=self._now_s(),
                account=account,
                caller=caller_arn,
                region=envelope.region,
                service=envelope.service,
                operation=envelope.operation,
                log_group=envelope.log_group,
                key=envelope.key,
                role=envelope.role,
                result=result,
            )
        )
        return answer

    def _answer_to_operator(self, envelope: Envelope, account: str) -> Answer:
        try:
            return self._work(ApiCall(envelope=envelope, caller=self.sessions.own_caller(account, envelope.region)))
        except AwsError as e:
            return error_answer(envelope.service, e)

    async def _answer_with_faults(self, call: ApiCall) -> Answer:
        """The quota counts a call as it arrives; what befalls it is decided then too, but shows once its latency has passed."""
        service, operation = call.envelope.service, call.envelope.operation
        faults = self.faults.matching(
            service=service, operation=operation, account=call.caller.account, region=call.region
        )
        if faults.outage == "reset":
            raise _ConnectionReset
        if faults.outage == "unavailable":
            return _FRONT_END_503
        if faults.refusal is not None:
            raise AwsError(faults.refusal.code, faults.refusal.message, status=faults.refusal.status)
        if service == "logs" and not self.quotas.take(call.caller.account, call.region, operation, self._now_s()):
            raise trouble_error(service, Trouble.THROTTLED)
        latency_s, mishap = self.faults.latency_s(faults), self.faults.mishap(faults)
        call = replace(call, effect_delay_s=faults.effect_delay_s)
        if operation not in _CHANGES_OF_KEY:
            return await self._answer_late(call, latency_s, mishap)
        changed = (call.caller.account, call.region, call.envelope.log_group)
        if changed in self._changing:
            raise trouble_error(service, Trouble.OPERATION_ABORTED)
        self._changing.add(changed)
        try:
            return await self._answer_late(call, latency_s, mishap)
        finally:
            self._changing.discard(changed)

    async def _answer_late(self, call: ApiCall, latency_s: float, mishap: Mishap | None) -> Answer:
        if latency_s:
            await self._sleep(latency_s)
        match mishap:
            case None:
                return self._work(call)
            case Mishap.CONNECTION_RESET:
                raise _ConnectionReset
            case Mishap.ANSWER_LOST:
                self._work(call)
                raise _ConnectionReset
            case Mishap.NOT_AUTHORIZED:
                raise _lacks_right(call)
            case Mishap.THROTTLED | Mishap.SERVICE_UNAVAILABLE | Mishap.OPERATION_ABORTED | Mishap.INTERNAL_FAILURE:
                raise trouble_error(call.envelope.service, _TROUBLE_BY_MISHAP[mishap])
            case _:
                assert_never(mishap)

    def _work(self, call: ApiCall) -> Answer:
        """Do what the call asks for: by our own code where there is some, by moto otherwise."""
        operation = self._operations.get((call.envelope.service, call.envelope.operation))
        refuse_unpermitted(call)
        try:
            return moto_answer(call, self.sessions) if operation is None else json_answer(operation(call))
        except JsonRESTError as e:
            raise AwsError(e.error_type, e.message, status=e.code) from e
        except NotImplementedError as e:
            # moto's own server answers with a 500 here, which clients take for transient and repeat.
            raise AwsError("UnknownOperationException", str(e)) from e


def _lacks_right(call: ApiCall) -> AwsError:
    action = f"{call.envelope.service}:{call.envelope.operation}"
    name = call.envelope.log_group
    resource = log_group_arn(call.caller.account, call.region, name) if name else call.envelope.key
    return not_authorized_error(
        call.envelope.service,
        caller_arn=call.caller.arn,
        action=action,
        resource=resource or "*",
        reason=f" because no identity-based policy allows the {action} action",
    )


def _error_code(answer: Answer) -> str:
    found = _ERROR_CODE.search(answer.body)
    return (found[1] or found[2]).decode() if found else str(answer.status)
