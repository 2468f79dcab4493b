"""aiobotocore's clients: one session, one client for each service and Region, and credentials that each call brings along.

A client costs a megabyte and 20 ms with its own connections and TLS context, a session ten times that; accounts are many. So clients
are shared by all accounts, and a hook hands the call's credentials to the signer. Clients have no credentials of their own: a
call that brought none would fail instead of acting in the wrong account.
"""

import asyncio
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self

import aiobotocore
from aiobotocore.client import AioBaseClient
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials

from service.aws.errors import VENDOR_ERRORS, ForeignAnswerError, translate

Service = Literal["logs", "sts"]

_CREDENTIALS: Final = "_credentials"  # a pseudo-parameter of every call; never sent
# How an answer of each service begins; anything else is a page from something in between. It matters most where the status is 200:
# AssociateKmsKey answers with nothing, so a portal's page would pass for success. Keys are botocore's names of the services.
_BEGINNINGS: Final[Mapping[str, re.Pattern[bytes]]] = {
    "cloudwatch-logs": re.compile(rb"\s*(\{|\Z)"),
    "sts": re.compile(rb"\s*<(?!html|!doctype)", re.IGNORECASE),
}


class SigningCredentials(Protocol):
    """Credentials as the signer takes them."""

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The credentials as they are now; fetches or refreshes them first where that is due."""


class CredentialChain(Protocol):
    """The places where botocore looks for this process's own credentials."""

    async def load_credentials(self) -> SigningCredentials | None:
        """The first that are found, None where there are none. Raises botocore's errors."""


class AwsClients:
    """Clients, made when first called and open until the context ends."""

    def __init__(
        self,
        *,
        own_region: str,
        endpoint_url: str | None,
        connect_timeout_s: float,
        read_timeout_s: float,
        max_in_flight: int,
        user_agent: str,
    ) -> None:
        """`own_region` is where this process runs: token exchanges for its own credentials go there."""
        self._session = AioSession()
        self._session.set_config_variable("region", own_region)
        self.credential_chain: CredentialChain = self._session.get_component("credential_provider")
        self._session.register_component("credential_provider", _NoCredentials())
        for service, beginning in _BEGINNINGS.items():
            self._session.register(f"provide-client-params.{service}", _bring_credentials)
            self._session.register(f"before-parse.{service}", _ForeignAnswerGuard(beginning))
        self._config = AioConfig(
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            # aiobotocore's 10 would let the calls above 10 wait for a connection.
            max_pool_connections=max_in_flight,
            # One call is one request: who retries also paces. `max_attempts: 1` would be two requests.
            retries={"total_max_attempts": 1, "mode": "standard"},
            parameter_validation=False,  # names and ARNs are checked types; AWS checks the rest
            # Given, it is fixed: otherwise botocore builds it anew from many parts, twice a call, for an eighth of the call's CPU.
            user_agent=f"aiobotocore/{aiobotocore.__version__}",
            user_agent_extra=user_agent,
        )
        self._endpoint_url = endpoint_url
        self._clients: dict[tuple[Service, str], AioBaseClient] = {}
        self._opening = asyncio.Lock()
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clients.clear()
        await self._open.aclose()

    async def call(
        self, service: Service, region: str, operation: str, *, credentials: SigningCredentials, **params: Any
    ) -> Mapping[str, Any]:
        """Send one request and return the parsed answer; `operation` is the client's method.

        Raises CallFailedError, also the one that `credentials` raise when they cannot be had. A cancelled call may or may not have
        been worked.
        """
        try:
            client = await self._client(service, region)
            answer: Mapping[str, Any] = await getattr(client, operation)(**params, **{_CREDENTIALS: credentials})
        except VENDOR_ERRORS as e:
            raise translate(e, call=f"{operation} in {region}") from e
        return answer

    async def _client(self, service: Service, region: str) -> AioBaseClient:
        if client := self._clients.get((service, region)):
            return client
        async with self._opening:
            if client := self._clients.get((service, region)):
                return client
            opening = self._session.create_client(
                service, region_name=region, endpoint_url=self._endpoint_url, config=self._config
            )
            client = self._clients[service, region] = await self._open.enter_async_context(opening)
            return client


class _NoCredentials:
    """What the session's clients find when they look for credentials of their own."""

    async def load_credentials(self) -> None:
        return None


def _bring_credentials(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    """Hand the call's credentials to the signer: botocore's own way to sign one request otherwise than its client would."""
    if (credentials := params.pop(_CREDENTIALS, None)) is not None:
        context["signing"] = {"request_credentials": credentials}


class _ForeignAnswerGuard:
    """Refuses an answer that does not begin as the service's do, before a parser makes something of it or breaks."""

    def __init__(self, beginning: re.Pattern[bytes]) -> None:
        self._beginning = beginning

    def __call__(self, response_dict: Mapping[str, Any], **_: Any) -> None:
        if not self._beginning.match(response_dict["body"]):
            raise ForeignAnswerError(response_dict["status_code"], response_dict["body"])
