"""Calls to one service in one Region, over an HTTP session that all of them share.

aiobotocore's client knows where the service is; botocore's model knows how a call is written and an answer read, and which exception an
error becomes. What aiobotocore does in between is left out: events, endpoint rules evaluated anew, request objects, and retries that are
not wanted cost three quarters of a call's CPU, and each client has connections and a TLS context of its own.
"""

import asyncio
import json
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol
from urllib.parse import urlencode

import aiohttp
from aiobotocore.client import AioBaseClient
from aiobotocore.parsers import create_parser
from botocore.awsrequest import prepare_request_dict
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import NoCredentialsError
from botocore.httpsession import ProxyConfiguration, get_cert_path
from botocore.model import OperationModel
from botocore.serialize import create_serializer
from botocore.utils import get_environ_proxies
from yarl import URL

from service.aws.endpoint import Endpoint
from service.aws.errors import ForeignAnswerError
from service.aws.signature import canonical_path, signed

_IDLE_S: Final = 12.0  # unused for this long a connection is closed, as in aiobotocore: AWS closes it after 20 s


class SigningCredentials(Protocol):
    """Credentials as the signer takes them."""

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The credentials as they are now; fetches or refreshes them first where that is due."""


@asynccontextmanager
async def open_http(
    *, connect_timeout_s: float, read_timeout_s: float, max_connections: int, ca_bundle: str | None
) -> AsyncIterator[aiohttp.ClientSession]:
    """Open the session; a connection is made when a call needs one. Raises OSError for a bundle that cannot be read.

    `ca_bundle` is a file of PEM; None for the one that REQUESTS_CA_BUNDLE names, as in botocore, or else botocore's own.
    """
    tls = await asyncio.to_thread(_tls_context, ca_bundle)  # reads some 150 certificates: 20 ms
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=max_connections, ssl=tls, keepalive_timeout=_IDLE_S),
        timeout=aiohttp.ClientTimeout(sock_connect=connect_timeout_s, sock_read=read_timeout_s),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as http:
        yield http


def _tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    file = ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or get_cert_path(verify=True)
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as e:  # it does not name the file
        raise OSError(f"CA bundle {file}: {e}") from e


class Api:
    """What a service's calls look like, in every Region: a client's model of it, which is most of what a client weighs."""

    def __init__(self, client: AioBaseClient) -> None:
        model = client.meta.service_model
        self.model = model
        self.operations: Mapping[str, str] = client.meta.method_to_api_mapping
        self.exceptions = client.exceptions
        self._serializer = create_serializer(model.resolved_protocol, include_validation=False)
        self.write = self._as_json if model.resolved_protocol == "json" else self._as_form
        self.parser: Any = create_parser(model.resolved_protocol)
        self.refuse_foreign = FOREIGN_ANSWER_GUARDS[model.resolved_protocol]

    def _as_json(self, params: Mapping[str, Any], operation: OperationModel) -> tuple[dict[str, str], bytes]:
        """The headers and the body of a request. The body is the parameters: where all are texts, numbers and lists of them, as ours
        are, botocore's serializer copies each by its model and changes none.
        """
        about = operation.metadata
        headers = {
            "X-Amz-Target": f"{about['targetPrefix']}.{operation.name}",
            "Content-Type": f"application/x-amz-json-{about['jsonVersion']}",
        }
        return headers, json.dumps(params).encode()

    def _as_form(self, params: Mapping[str, Any], operation: OperationModel) -> tuple[dict[str, str], bytes]:
        request = self._serializer.serialize_to_request(params, operation)
        return request["headers"], urlencode(request["body"], doseq=True).encode()


class RegionalService:
    """One service in one Region, for all accounts."""

    def __init__(
        self, api: Api, *, region: str, endpoint_url: str, http: aiohttp.ClientSession, user_agent: str
    ) -> None:
        self._api = api
        self._region = region
        parsed_url = URL(_url_of_calls(endpoint_url))
        url = str(parsed_url)
        self._path = canonical_path(url)
        proxy = ProxyConfiguration(get_environ_proxies(url)).proxy_url_for(url)
        self._endpoint = Endpoint(parsed_url, proxy=proxy, http=http)
        self.host = parsed_url.host_port_subcomponent or ""
        self._signed_headers = {"Host": self.host}
        self._unsigned_headers = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}

    async def call(
        self, method: str, *, credentials: SigningCredentials | None, params: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Send one request and return the parsed answer; `method` is the client's name of the operation.

        Raises VENDOR_ERRORS, and whatever `credentials` raise. A cancelled call closes its connection, and may have been worked.
        """
        if credentials is None:
            raise NoCredentialsError
        api = self._api
        operation = api.model.operation_model(api.operations[method])
        request_headers, body = api.write(params, operation)
        headers = signed(
            self._signed_headers | request_headers,
            path=self._path,
            body=body,
            credentials=await credentials.get_frozen_credentials(),
            region=self._region,
            service=api.model.signing_name,
            timestamp=time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
        )
        status, answered, content = await self._endpoint.post(headers | self._unsigned_headers, body)
        answer = {"status_code": status, "headers": answered, "body": content, "context": {}}
        api.refuse_foreign(answer)
        if status < 300 and not content:  # AssociateKmsKey's: the parser would take 7 us to find nothing in it
            return {}
        parsed: dict[str, Any] = await api.parser.parse(answer, operation.output_shape)
        if status >= 300:  # AWS redirects nobody, and a session token must not follow where a portal points
            code = parsed.get("Error", {}).get("Code")
            error_class: Any = api.exceptions.from_code(code)
            raise error_class(parsed, operation.name)
        return parsed


def _url_of_calls(endpoint_url: str) -> str:
    """Where all calls go: these protocols know one path, `/`, below the one that the endpoint may have."""
    request = {"url_path": "/", "query_string": "", "headers": {}}
    prepare_request_dict(request, endpoint_url=endpoint_url)
    return str(request["url"])


# An answer that is not of the service's form comes from something in between. It matters most where the status is 200:
# AssociateKmsKey answers with nothing, so a portal's page would pass for success, and a list cut short for a list without the group.


def _refuse_foreign_json(answer: Mapping[str, Any]) -> None:
    if answer["body"].strip():
        try:
            is_object = isinstance(json.loads(answer["body"]), dict)
        except ValueError:
            is_object = False
        if not is_object:
            raise ForeignAnswerError(answer["status_code"], answer["body"])


_XML_OF_AWS: Final = re.compile(rb"\s*<(?!html|!doctype)", re.IGNORECASE)


def _refuse_foreign_xml(answer: Mapping[str, Any]) -> None:
    if not _XML_OF_AWS.match(answer["body"]):
        raise ForeignAnswerError(answer["status_code"], answer["body"])


# By botocore's names of the protocols. Each looks at an answer before botocore's parser makes something of it or breaks.
FOREIGN_ANSWER_GUARDS: Final[Mapping[str, Callable[[Mapping[str, Any]], None]]] = {
    "json": _refuse_foreign_json,
    "query": _refuse_foreign_xml,
}
