import asyncio
import json
import ssl
from importlib.resources import files
from typing import Any

import aiohttp
import botocore.exceptions
import botocore.session
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker

from service.aws.errors import ForeignAnswerError, classify, translate
from service.domain.outcome import FailureClass, Recourse
from tests.support.iam import called_actions

ARN = "arn:aws:logs:eu-west-1:111122223333:log-group:/app/a"
TRANSIENT: Any = TransientRetryableChecker  # Any: the stubs leave out what is looked at here
THROTTLED: Any = ThrottledRetryableChecker
CALLER = "User: arn:aws:sts::111122223333:assumed-role/logwarden/logwarden"


def client_error(code: str, message: str = "", status: int = 400) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "req-1"},
    }
    return ClientError(response, "AssociateKmsKey")


def modelled_codes() -> set[str]:
    """Of every operation that the code calls, and of the one that botocore calls for our own credentials."""
    session: Any = botocore.session.get_session()
    return {
        shape.error_code
        for service, _, name in (a.partition(":") for a in {*called_actions(), "sts:AssumeRoleWithWebIdentity"})
        for shape in session.get_service_model(service).operation_model(name).error_shapes
    }


def retry_listed_codes() -> set[str]:
    found = {*TRANSIENT._TRANSIENT_ERROR_CODES, *THROTTLED._THROTTLED_ERROR_CODES}

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            found.update([node["service_error_code"]] if "service_error_code" in node else [])
            for value in node.values():
                collect(value)

    collect(json.loads(files("botocore").joinpath("data/_retry.json").read_text()))
    return found


def test_the_lists_under_test_are_not_empty():
    assert "OperationAbortedException" in modelled_codes()
    assert "MalformedPolicyDocument" in modelled_codes()
    assert {"RequestTimeout", "SlowDown", "IDPCommunicationError"} <= retry_listed_codes()


@pytest.mark.parametrize("code", sorted(modelled_codes()))
def test_every_error_code_that_botocore_models_for_our_calls_has_a_row(code):
    assert classify(code, "", 400) is not None


@pytest.mark.parametrize("code", sorted(retry_listed_codes()))
def test_every_error_code_that_botocore_retries_has_a_row(code):
    assert classify(code, "", 400) not in (None, FailureClass.UNRECOGNISED)


@pytest.mark.parametrize("code", sorted(retry_listed_codes() - {"LimitExceededException"}))
def test_what_botocore_retries_is_retried_here_too(code):
    failure = classify(code, "", 400)
    assert failure is not None
    assert failure.is_retried_in_place


@pytest.mark.parametrize("status", TRANSIENT._TRANSIENT_STATUS_CODES)
def test_a_server_error_passes_by_itself_whatever_its_code(status):
    assert classify("SomethingNewException", "", status) is FailureClass.SERVICE_UNAVAILABLE
    assert classify(str(status), "Bad Gateway", status) is FailureClass.SERVICE_UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "message", "failure"),
    [
        ("ThrottlingException", "Rate exceeded", FailureClass.THROTTLED),
        ("429", "", FailureClass.THROTTLED),
        ("LimitExceededException", "", FailureClass.LIMIT_EXCEEDED),
        ("OperationAbortedException", "", FailureClass.OPERATION_ABORTED),
        ("ServiceUnavailableException", "", FailureClass.SERVICE_UNAVAILABLE),
        (
            "AccessDeniedException",
            f"The specified KMS key does not exist or is not allowed to be used with Arn '{ARN}'",
            FailureClass.KEY_NOT_USABLE,
        ),
        (
            "AccessDeniedException",
            f"{CALLER} is not authorized to perform: logs:AssociateKmsKey on resource: {ARN}",
            FailureClass.NOT_AUTHORIZED,
        ),
        (
            "AccessDeniedException",
            f"{CALLER} is not authorized to perform: kms:GenerateDataKey on the KMS key ... because no policy allows it",
            FailureClass.NOT_AUTHORIZED,
        ),
        (
            "AccessDenied",
            f"{CALLER} is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::111122223333:role/x",
            FailureClass.ROLE_NOT_ASSUMABLE,
        ),
        (
            "AccessDenied",
            "Not authorized to perform sts:AssumeRoleWithWebIdentity",
            FailureClass.CREDENTIALS_MISSING,
        ),
        ("AccessDeniedException", "Something that nobody has seen yet", FailureClass.UNRECOGNISED),
        ("InvalidParameterException", "The specified KMS Key Id could not be found.", FailureClass.KEY_NOT_FOUND),
        ("InvalidParameterException", "The KMS key is disabled", FailureClass.KEY_NOT_FOUND),
        ("InvalidParameterException", "The KMS key has an unsupported key spec", FailureClass.KEY_NOT_USABLE),
        (
            "InvalidParameterException",
            "Log groups starting with AWS/ are reserved for AWS",
            FailureClass.RESERVED_NAME,
        ),
        (
            "InvalidParameterException",
            "1 validation error detected: Value 'x' at 'kmsKeyId' failed to satisfy constraint",
            FailureClass.INVALID_REQUEST,
        ),
        ("ResourceNotFoundException", "The specified log group does not exist.", FailureClass.LOG_GROUP_NOT_FOUND),
        ("ResourceNotFoundException", "The specified KMS key does not exist.", FailureClass.KEY_NOT_FOUND),
        ("ExpiredTokenException", "", FailureClass.CREDENTIALS_REJECTED),
        ("UnrecognizedClientException", "", FailureClass.CREDENTIALS_REJECTED),
        ("InvalidSignatureException", "Signature not yet current: 20261123T...", FailureClass.CREDENTIALS_REJECTED),
        ("RegionDisabledException", "", FailureClass.ROLE_NOT_ASSUMABLE),
        ("UnknownOperationException", "", FailureClass.UNREACHABLE),
        ("403", "<html>blocked by policy</html>", FailureClass.UNREACHABLE),
        ("407", "", FailureClass.UNREACHABLE),
    ],
)
def test_an_answer_is_classified_by_its_code_and_its_message(code, message, failure):
    status = int(code) if code.isdigit() else 400
    assert translate(client_error(code, message, status), call="associate").failure is failure


def test_an_unknown_code_is_unrecognised_and_shows_what_aws_said():
    error = translate(client_error("BrandNewException", "what now?"), call="associate_kms_key in eu-west-1")
    assert error.failure is FailureClass.UNRECOGNISED
    assert error.detail == "associate_kms_key in eu-west-1: BrandNewException: what now? (request req-1)"


def test_an_answer_without_a_body_of_aws_still_has_a_class():
    response: Any = {}
    assert translate(ClientError(response, "AssociateKmsKey"), call="x").failure is FailureClass.UNRECOGNISED


def instance_of(error_type: type[BotoCoreError]) -> BotoCoreError:
    """An error with something in every field that its text needs."""

    class Fields(dict[str, str]):
        def __missing__(self, key: str) -> str:
            return "x"

    error = error_type.__new__(error_type)
    Exception.__init__(error, error_type.fmt.format_map(Fields()))
    error.kwargs = {}
    return error


def all_subclasses(error_type: type[BotoCoreError]) -> list[type[BotoCoreError]]:
    return [
        found
        for found in vars(botocore.exceptions).values()
        if isinstance(found, type) and issubclass(found, error_type)
    ]


@pytest.mark.parametrize("error_type", all_subclasses(BotoCoreError))
def test_no_error_of_botocore_is_taken_for_a_bug(error_type):
    assert translate(instance_of(error_type), call="x").failure in FailureClass


@pytest.mark.parametrize("base", [botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError])
def test_every_transport_error_of_botocore_is_unreachable(base):
    found = all_subclasses(base)
    assert len(found) > 2
    assert {translate(instance_of(error_type), call="x").failure for error_type in found} == {FailureClass.UNREACHABLE}


@pytest.mark.parametrize(
    "error",
    [
        botocore.exceptions.EndpointConnectionError(endpoint_url="https://x", error="no such host"),
        botocore.exceptions.SSLError(endpoint_url="https://x", error=ssl.SSLError("self-signed")),
        botocore.exceptions.ReadTimeoutError(endpoint_url="https://x", error="slow"),
        botocore.exceptions.ConnectTimeoutError(endpoint_url="https://x", error="slow"),
        aiohttp.ClientPayloadError("cut short"),
        aiohttp.ServerDisconnectedError(),
        asyncio.TimeoutError(),  # noqa: UP041  what aiohttp raises
        ConnectionResetError(104, "reset by peer"),
        ResponseParserError("not XML"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_endpoint_that_cannot_be_spoken_to_is_unreachable_and_holds_the_lane(error):
    failure = translate(error, call="x").failure
    assert failure is FailureClass.UNREACHABLE
    assert failure.recourse is Recourse.HOLD


def test_a_connection_error_says_why():
    error = botocore.exceptions.EndpointConnectionError(endpoint_url="https://x", error="Name or service not known")
    assert translate(error, call="x").detail == (
        'x: Could not connect to the endpoint URL: "https://x": Name or service not known'
    )


@pytest.mark.parametrize(
    "error",
    [
        botocore.exceptions.NoCredentialsError(),
        botocore.exceptions.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
        botocore.exceptions.CredentialRetrievalError(provider="container-role", error_msg="refused"),
        botocore.exceptions.ProfileNotFound(profile="staging"),
        botocore.exceptions.SSOTokenLoadError(profile_name="x", error_msg="expired"),
        FileNotFoundError(2, "No such file or directory", "/var/run/secrets/token"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_credentials_that_are_not_there_hold_the_lane(error):
    failure = translate(error, call="x").failure
    assert failure is FailureClass.CREDENTIALS_MISSING
    assert failure.recourse is Recourse.HOLD


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (200, FailureClass.UNREACHABLE),
        (403, FailureClass.UNREACHABLE),
        (429, FailureClass.THROTTLED),
        (502, FailureClass.UNREACHABLE),
        (503, FailureClass.UNREACHABLE),
    ],
)
def test_a_page_that_aws_did_not_write_is_what_is_in_between(status, failure):
    error = translate(ForeignAnswerError(status, b"<html>\xfc</html>" * 1000), call="x")
    assert error.failure is failure
    assert len(error.detail) < 600


@pytest.mark.parametrize(
    "body",
    [b"", b" \n", b'{"__type":"ThrottlingExcep', b"<html><body><b>Http/1.1 Service Unavailable</b></body> </html>"],
)
def test_a_server_error_that_says_nothing_or_is_cut_short_may_be_aws_own(body):
    assert translate(ForeignAnswerError(503, body), call="x").failure is FailureClass.SERVICE_UNAVAILABLE


@pytest.mark.parametrize("bug", [KeyError("logGroups"), AttributeError("x"), RuntimeError("x")])
def test_a_bug_stays_a_bug(bug):
    with pytest.raises(type(bug)) as raised:
        translate(bug, call="x")
    assert raised.value is bug
