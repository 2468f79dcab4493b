"""The one table from what AWS, botocore and the network raise to what the core knows: `FailureClass`.

It lives beside the clients because codes and messages are AWS's business. Error shapes carry nothing but a code and a message, and
one code can have several meanings, so a row may look at the message too. Sources: the botocore service models, AWS's API
reference, and public issue threads where AWS documents nothing; a comment says which.
"""

import re
from collections.abc import Mapping
from typing import Final

import aiohttp
from botocore import exceptions as botocore_errors
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from service.domain.outcome import CallFailedError, FailureClass, UnknownCallError

_MAX_MESSAGE_LENGTH: Final = 500  # characters; AWS's messages are shorter, a proxy's page is not

Row = tuple[
    str, str | None, FailureClass
]  # codes, with spaces between; a pattern in the message, None for any; the class

# The first row that fits decides, so a code's patterns come before its None.
_UNKNOWN_CALL: Final = "UnknownOperationException UnknownOperation InvalidAction UnsupportedOperation"

TABLE: Final[tuple[Row, ...]] = (
    # -- AWS is busy or away
    (
        """
        Throttling ThrottlingException ThrottledException RequestThrottled RequestThrottledException RequestLimitExceeded
        TooManyRequestsException ProvisionedThroughputExceededException BandwidthLimitExceeded EC2ThrottledException SlowDown
        """,
        None, FailureClass.THROTTLED,
    ),
    (
        """
        OperationAbortedException OperationAborted ConflictException PriorRequestNotComplete TransactionInProgressException
        ReplicatedWriteConflictException
        """,
        None, FailureClass.OPERATION_ABORTED,
    ),
    (
        """
        ServiceUnavailableException ServiceUnavailable InternalFailure InternalError InternalServerError InternalServerException
        RequestTimeout RequestTimeoutException BadDigest IDPCommunicationError KMSInternalException DependencyTimeoutException
        """,
        None, FailureClass.SERVICE_UNAVAILABLE,
    ),
    # What answers does not know the call: it is not CloudWatch Logs or STS, but a wrong endpoint.
    (_UNKNOWN_CALL, None, FailureClass.UNREACHABLE),
    # The first is in botocore's list of throttles, but waiting does not raise a limit.
    ("LimitExceededException ServiceQuotaExceededException", None, FailureClass.LIMIT_EXCEEDED),
    # -- our own rights
    # IRSA fetches our own credentials with AssumeRoleWithWebIdentity, in the middle of some other call.
    ("AccessDenied AccessDeniedException", r"sts:AssumeRoleWithWebIdentity", FailureClass.CREDENTIALS_MISSING),
    ("IDPRejectedClaim InvalidIdentityToken", None, FailureClass.CREDENTIALS_MISSING),
    # Missing role, wrong trust policy and wrong external id look the same.
    ("AccessDenied AccessDeniedException", r"sts:AssumeRole", FailureClass.ROLE_NOT_ASSUMABLE),
    ("MalformedPolicyDocument PackedPolicyTooLarge RegionDisabledException", None, FailureClass.ROLE_NOT_ASSUMABLE),
    # AccessDeniedException is not modelled for AssociateKmsKey but comes for a bad key policy and an absent key alike
    # (terraform-provider-aws#29282, aws-cdk#28304).
    ("AccessDenied AccessDeniedException", r"not authorized to perform", FailureClass.NOT_AUTHORIZED),
    ("AccessDenied AccessDeniedException", r"\bkms key\b", FailureClass.KEY_NOT_USABLE),
    ("AccessDenied AccessDeniedException", None, FailureClass.UNRECOGNISED),
    ("UnauthorizedOperation OptInRequired", None, FailureClass.NOT_AUTHORIZED),
    (
        """
        ExpiredToken ExpiredTokenException RequestExpired RequestTimeTooSkewed InvalidToken InvalidClientTokenId
        UnrecognizedClientException InvalidAccessKeyId InvalidSignatureException SignatureDoesNotMatch IncompleteSignature
        IncompleteSignatureException MissingAuthenticationToken MissingAuthenticationTokenException AuthFailure
        """,
        None, FailureClass.CREDENTIALS_REJECTED,
    ),
    # -- the log group, and again its key: to CloudWatch Logs an absent, disabled or bare key id is an invalid parameter
    ("InvalidParameterException", r"reserved for aws", FailureClass.RESERVED_NAME),
    (
        "InvalidParameterException ResourceNotFoundException",
        r"\bkms key\b.*(not be found|not found|not exist|disabled|pending)", FailureClass.KEY_NOT_FOUND,
    ),
    # What AWS says of an asymmetric key or one of another Region is not confirmed. The tenant can mend it, so it is not dropped.
    ("InvalidParameterException ResourceNotFoundException", r"\bkms key\b", FailureClass.KEY_NOT_USABLE),
    ("ResourceNotFoundException", None, FailureClass.LOG_GROUP_NOT_FOUND),
    ("NotFoundException InvalidArnException KMSInvalidStateException", None, FailureClass.KEY_NOT_FOUND),  # KMS's own codes
    (
        """
        InvalidParameterException ValidationException ValidationError SerializationException MissingParameter
        InvalidParameterValue InvalidParameterCombination
        """,
        None, FailureClass.INVALID_REQUEST,
    ),
)  # fmt: skip


# The page of AWS's own front ends: aws/aws-sdk-js issue 1379.
_FRONT_END: Final = b"<b>Http/1.1 Service Unavailable</b>"


class ForeignAnswerError(Exception):
    """An answer that AWS did not write: the page of a proxy, a portal or a load balancer, whatever its status."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}, not from AWS: {body[:_MAX_MESSAGE_LENGTH].decode(errors='replace')}")
        self.status = status
        begins_as_aws = body.lstrip()[:1] in (b"", b"{")  # nothing, or AWS's own answer cut short
        self.is_from_aws_itself = begins_as_aws or _FRONT_END in body


VendorError = ClientError | BotoCoreError | ResponseParserError | ForeignAnswerError | aiohttp.ClientError | OSError
# What a call through aiobotocore raises for reasons outside this process. Anything else is a bug and must not be caught.
# aiobotocore wraps what aiohttp and the socket raise, except on paths that it forgets.
VENDOR_ERRORS: Final = (
    ClientError, BotoCoreError, ResponseParserError, ForeignAnswerError, aiohttp.ClientError, OSError,
)  # fmt: skip

_CREDENTIALS_MISSING: Final = (
    botocore_errors.NoCredentialsError,
    botocore_errors.PartialCredentialsError,
    botocore_errors.CredentialRetrievalError,
    botocore_errors.UnknownCredentialError,
    botocore_errors.MetadataRetrievalError,
    botocore_errors.NoAuthTokenError,
    botocore_errors.TokenRetrievalError,
    botocore_errors.SSOError,
    botocore_errors.RefreshWithMFAUnsupportedError,
    botocore_errors.ProfileNotFound,
    botocore_errors.ConfigNotFound,
    botocore_errors.ConfigParseError,
    botocore_errors.InvalidConfigError,
)
_UNREACHABLE: Final = (
    botocore_errors.ConnectionError,  # DNS, refused, TLS, proxy, connect timeout
    botocore_errors.HTTPClientError,  # read timeout, closed halfway, anything else in the HTTP client
    ResponseParserError,  # XML was due and something else came
    aiohttp.ClientError,
    OSError,
)


def _by_code(table: tuple[Row, ...]) -> Mapping[str, list[tuple[re.Pattern[str], Row]]]:
    rows: dict[str, list[tuple[re.Pattern[str], Row]]] = {}
    for row in table:
        codes, pattern, _ = row
        compiled = re.compile(pattern or "", re.IGNORECASE | re.DOTALL)
        for code in codes.split():
            rows.setdefault(code, []).append((compiled, row))
    return rows


_BY_CODE: Final = _by_code(TABLE)


def row_of(code: str, message: str) -> Row | None:
    """The row of the table that decides, None where none does."""
    return next((row for pattern, row in _BY_CODE.get(code, ()) if pattern.search(message)), None)


def classify(code: str, message: str, status: int) -> FailureClass | None:
    """The class of an answer by its error code, message and HTTP status; None when no row knows it.

    botocore makes the status the code when a body holds none ("502"): that is not AWS's own error document.
    """
    if (row := row_of(code, message)) is not None:
        return row[2]
    if code.isdigit():
        return _by_status(int(code))
    return FailureClass.SERVICE_UNAVAILABLE if status >= 500 else None


def _by_status(status: int) -> FailureClass:
    """The class of an answer that has a status and nothing else worth reading."""
    if status == 429:
        return FailureClass.THROTTLED
    return FailureClass.SERVICE_UNAVAILABLE if status >= 500 else FailureClass.UNREACHABLE


def translate(error: VendorError, *, call: str) -> CallFailedError:
    """Give an error its class; `call` says what was tried, for the detail. What no row knows is UNRECOGNISED.

    Anything else than a vendor's error is raised again as the bug it is.
    """
    match error:
        case ClientError():
            code, message, status = _parts(error)
            failure = classify(code, message, status) or FailureClass.UNRECOGNISED
            if code in _UNKNOWN_CALL.split():
                return UnknownCallError(failure, f"{call}: {_described(error)}")
        case ForeignAnswerError():
            # A proxy's server error is not AWS's to mend, nor on its Health Dashboard. One that asks for fewer calls gets fewer.
            is_a_page = error.status >= 500 and not error.is_from_aws_itself
            failure = FailureClass.UNREACHABLE if is_a_page else _by_status(error.status)
        case OSError() if error.filename is not None:
            failure = FailureClass.CREDENTIALS_MISSING  # a credentials, config or token file that cannot be read
        case _ if isinstance(error, _UNREACHABLE):
            failure = FailureClass.UNREACHABLE
        case _ if isinstance(error, _CREDENTIALS_MISSING):
            failure = FailureClass.CREDENTIALS_MISSING
        case BotoCoreError():
            failure = FailureClass.UNRECOGNISED
        case _:
            raise error
    return CallFailedError(failure, f"{call}: {_described(error)}")


def _parts(error: ClientError) -> tuple[str, str, int]:
    """Code, message and HTTP status of an error answer, whatever of them is there."""
    described = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(described.get("Code", "")), str(described.get("Message", "")), status


def _described(error: VendorError) -> str:
    """The error in its own words and in one line, with the request id that AWS's support asks for."""
    if isinstance(error, ClientError):
        code, message, _ = _parts(error)
        request_id = error.response.get("ResponseMetadata", {}).get("RequestId")
        text = f"{code}: {message}" + (f" (request {request_id})" if request_id else "")
    else:
        cause = error.kwargs.get("error") if isinstance(error, BotoCoreError) else None
        text = str(error) or type(error).__name__
        # "Could not connect to the endpoint URL" alone does not tell a missing DNS name from a refused connection.
        text = text if cause is None or str(cause) in text else f"{text}: {cause}"
    text = " ".join(text.split())
    return text if len(text) <= _MAX_MESSAGE_LENGTH else f"{text[: _MAX_MESSAGE_LENGTH - 3]}..."
