"""AWS's errors as the sandbox sends them: which code, status and body each service uses for the same trouble."""

import json
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Final
from uuid import uuid4
from xml.sax.saxutils import escape

_QUERY_SERVICES: Final = frozenset({"sts", "iam"})  # answer in XML; the others speak JSON


class AwsError(Exception):
    """A call that AWS refuses: the code and the message are what a client sees."""

    def __init__(self, code: str, message: str, *, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


class Trouble(Enum):
    """Trouble that every service can have and each names in its own way."""

    THROTTLED = "Rate exceeded"
    SERVICE_UNAVAILABLE = "The service is temporarily unavailable. Please try again."
    INTERNAL_FAILURE = "An internal error occurred."
    OPERATION_ABORTED = "A conflicting operation is currently in progress against this resource. Please try again."
    EXPIRED_TOKEN = "The security token included in the request is expired"  # noqa: S105 - a message
    UNKNOWN_TOKEN = "The security token included in the request is invalid."  # noqa: S105 - a message
    MISSING_TOKEN = "Missing Authentication Token"  # noqa: S105 - a message


# Codes and statuses as the botocore models have them; what a service does not model is what its front end sends.
_JSON_CODES: Final[dict[Trouble, tuple[str, int]]] = {
    Trouble.THROTTLED: ("ThrottlingException", 400),
    Trouble.SERVICE_UNAVAILABLE: ("ServiceUnavailableException", 500),
    Trouble.INTERNAL_FAILURE: ("InternalFailure", 500),
    Trouble.OPERATION_ABORTED: ("OperationAbortedException", 400),
    Trouble.EXPIRED_TOKEN: ("ExpiredTokenException", 400),
    Trouble.UNKNOWN_TOKEN: ("UnrecognizedClientException", 400),
    Trouble.MISSING_TOKEN: ("MissingAuthenticationTokenException", 400),
}
_QUERY_CODES: Final[dict[Trouble, tuple[str, int]]] = {
    Trouble.THROTTLED: ("Throttling", 400),
    Trouble.SERVICE_UNAVAILABLE: ("ServiceUnavailable", 503),
    Trouble.INTERNAL_FAILURE: ("InternalFailure", 500),
    Trouble.OPERATION_ABORTED: ("OperationAborted", 400),
    Trouble.EXPIRED_TOKEN: ("ExpiredToken", 403),
    Trouble.UNKNOWN_TOKEN: ("InvalidClientTokenId", 403),
    Trouble.MISSING_TOKEN: ("MissingAuthenticationToken", 403),
}
_OWN_CODES: Final[dict[tuple[str, Trouble], tuple[str, int]]] = {
    ("kms", Trouble.SERVICE_UNAVAILABLE): ("DependencyTimeoutException", 500),
    ("kms", Trouble.INTERNAL_FAILURE): ("KMSInternalException", 500),
    ("dynamodb", Trouble.SERVICE_UNAVAILABLE): ("ServiceUnavailable", 503),
    ("dynamodb", Trouble.INTERNAL_FAILURE): ("InternalServerError", 500),
}


def trouble_error(service: str, trouble: Trouble) -> AwsError:
    """The error by which a service reports trouble."""
    codes = _QUERY_CODES if service in _QUERY_SERVICES else _JSON_CODES
    code, status = _OWN_CODES.get((service, trouble), codes[trouble])
    return AwsError(code, trouble.value, status=status)


def not_authorized_error(service: str, *, caller_arn: str, action: str, resource: str, reason: str = "") -> AwsError:
    """The error of a caller that lacks a right."""
    message = f"User: {caller_arn} is not authorized to perform: {action} on resource: {resource}{reason}"
    if service in _QUERY_SERVICES:
        return AwsError("AccessDenied", message, status=HTTPStatus.FORBIDDEN)
    return AwsError("AccessDeniedException", message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back over HTTP."""

    status: int
    content_type: str
    body: bytes


def json_answer(content: object, *, status: int = HTTPStatus.OK) -> Answer:
    """An answer of a JSON service."""
    return Answer(status=status, content_type="application/x-amz-json-1.1", body=json.dumps(content).encode())


def error_answer(service: str, error: AwsError) -> Answer:
    """An error in the form that clients of the service parse."""
    if service not in _QUERY_SERVICES:
        return json_answer({"__type": error.code, "message": error.message}, status=error.status)
    blame = "Sender" if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else "Receiver"
    body = (
        f"<ErrorResponse><Error><Type>{blame}</Type><Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>"
        f"<RequestId>{uuid4()}</RequestId></ErrorResponse>"
    )
    return Answer(status=error.status, content_type="text/xml", body=body.encode())
