"""Hands a call to moto's response classes, without the Flask server that moto puts in front of them.

That server costs most of its time on routing and on finding a caller's account among all accounts; both are known here.
"""

import io
from typing import Any, Final

from moto.core.request import Request
from moto.dynamodb.responses import DynamoHandler
from moto.iam.responses import IamResponse
from moto.kms.responses import KmsResponse
from moto.logs.responses import LogsResponse

from service.sandbox.aws.call import ApiCall
from service.sandbox.aws.errors import Answer
from service.sandbox.aws.identity import SandboxSts, Sessions

_RESPONSES: Final = {"logs": LogsResponse, "kms": KmsResponse, "iam": IamResponse, "dynamodb": DynamoHandler}
_JSON_TYPE: Final = "application/x-amz-json-1.0"
_QUERY_TYPE: Final = "text/xml"


class _MotoRequest(Request):
    from_wsgi_server = True  # so that moto leaves the Date header to us


def moto_answer(call: ApiCall, sessions: Sessions) -> Answer:
    """Let moto answer. Raises NotImplementedError for an operation that it lacks."""
    request = _MotoRequest(_wsgi_environ(call))
    service = call.envelope.service
    if service == "sts":
        status, headers, body = SandboxSts(call.caller, sessions=sessions, tags=call.envelope.session_tags).answer(
            request
        )
    else:
        status, headers, body = _RESPONSES[service].dispatch(request)
    default_type = _JSON_TYPE if "X-Amz-Target" in call.envelope.headers else _QUERY_TYPE
    return Answer(
        status=int(status),
        content_type=headers.get("Content-Type", default_type),
        body=body.encode() if isinstance(body, str) else body,
    )


def _wsgi_environ(call: ApiCall) -> dict[str, Any]:
    headers, body = call.envelope.headers, call.envelope.body
    environ: dict[str, Any] = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    return environ | {
        "HTTP_USER_AGENT": "",  # a Region named in there would go before the signature's
        "HTTP_X_MOTO_ACCOUNT_ID": call.caller.account,
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "RAW_URI": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
    }
