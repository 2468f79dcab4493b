"""The services of AWS that are called: one for each Region, for all accounts, with the credentials that each call brings along.

A client of aiobotocore costs a third of a megabyte, a session ten, and accounts are many. So a client is made for a service and Region,
not for an account, and has no credentials: a call that brought none fails instead of acting in the wrong account. Of a service's clients
one is kept; of the others only where their Region is called.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Any, Literal, Protocol, Self, get_args

import aiobotocore
import botocore
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from aiohttp import ClientSession
from botocore.exceptions import ClientError

from service.aws.errors import VENDOR_ERRORS, translate
from service.aws.wire import FOREIGN_ANSWER_GUARDS, Api, RegionalService, SigningCredentials, open_http
from service.domain.outcome import CallFailedError, FailureClass

__all__ = ["AwsClients", "CredentialChain", "Service", "SigningCredentials"]

Service = Literal["logs", "sts", "kms"]
OnCall = Callable[
    [str, FailureClass | None, float], None
]  # the operation, as the client's method is called; the failure, None for none; seconds


class CredentialChain(Protocol):
    """The places where botocore looks for this process's own credentials."""

    async def load_credentials(self) -> SigningCredentials | None:
        """The first that are found, None where there are none. Raises botocore's errors."""


class AwsClients:
    """Each service of each Region, made when first called; their connections are open until the context ends."""

    def __init__(
        self,
        *,
        own_region: str,
        endpoint_url: str | None,
        connect_timeout_s: float,
        read_timeout_s: float,
        max_in_flight: int,
        user_agent: str,
        endpoint_urls: Mapping[str, str] | None = None,
        use_fips: bool = False,
        use_dualstack: bool = False,
        on_call: OnCall = lambda *_: None,
    ) -> None:
        """`own_region` is where this process runs: token exchanges for its own credentials go there.

        `endpoint_urls` has URLs by `SERVICE:REGION` or `SERVICE`; `endpoint_url` is for what is not among them. Both may hold a
        `{region}`. FIPS and dual-stack endpoints are AWS's own: where a URL is given, it is used as it is.
        `on_call` is told of every call but those that are cancelled.
        """
        self._on_call = on_call
        self._own_region = own_region
        self._session = AioSession()
        self._session.set_config_variable("region", own_region)
        # AWS_STS_REGIONAL_ENDPOINTS=legacy would sign for one Region and call in another.
        self._session.set_config_variable("sts_regional_endpoints", "regional")
        self._session.set_default_client_config(
            # None, not False: then AWS_USE_FIPS_ENDPOINT and the like decide, for our own credentials' token exchange too.
            AioConfig(
                connect_timeout=connect_timeout_s,
                read_timeout=read_timeout_s,
                use_fips_endpoint=use_fips or None,
                use_dualstack_endpoint=use_dualstack or None,
            )
        )
        self.credential_chain: CredentialChain = self._session.get_component("credential_provider")
        self._session.register_component("credential_provider", _NoCredentials())
        self._session.register("before-parse.sts", _refuse_foreign_answer)
        self._endpoint_url = endpoint_url
        self._endpoint_urls = endpoint_urls or {}
        self._open_http = partial(
            open_http,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            max_connections=max_in_flight,
        )
        self._http: ClientSession | None = None
        self._user_agent = f"aiobotocore/{aiobotocore.__version__} botocore/{botocore.__version__} {user_agent}"
        self._services: dict[tuple[Service, str], RegionalService] = {}
        self._apis: dict[Service, Api] = {}
        self._opening = asyncio.Lock()
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._services.clear()
        await self._open.aclose()

    async def load(self) -> None:
        """Read what botocore knows of the services, before the first call has to: it takes 200 ms, in which nothing else goes on."""
        for service in get_args(Service):
            with suppress(*VENDOR_ERRORS):  # a service that is not where we run: a call elsewhere will tell
                await self._looked_up(service, self._own_region)

    async def ready(self, service: Service, region: str) -> None:
        """Make the client for a Region, where none has been called yet: one takes 20 ms, and several are made one after the other.

        Raises CallFailedError where botocore knows of no such place.
        """
        if (service, region) not in self._services:
            try:
                await self._regional(service, region)
            except VENDOR_ERRORS as e:
                raise translate(e, call=f"{service} in {region}") from e

    async def call(
        self, service: Service, region: str, operation: str, *, credentials: SigningCredentials | None, **params: Any
    ) -> Mapping[str, Any]:
        """Send one request and return the parsed answer; `operation` is the client's method.

        Raises CallFailedError, also the one that `credentials` raise when they cannot be had. A cancelled call may or may not have
        been worked.
        """
        now = asyncio.get_running_loop().time
        started = now()
        try:
            regional = self._services.get((service, region)) or await self._regional(service, region)
            answer = await regional.call(operation, credentials=credentials, params=params)
        except CallFailedError as e:
            self._on_call(operation, e.failure, now() - started)
            raise
        except VENDOR_ERRORS as e:
            error = translate(e, call=self._described(service, region, operation, e))
            self._on_call(operation, error.failure, now() - started)
            raise error from e
        self._on_call(operation, None, now() - started)
        return answer

    def _described(self, service: Service, region: str, operation: str, error: Exception) -> str:
        """What was tried, and where it was sent unless AWS itself has answered: errors of connections do not all name their endpoint."""
        if isinstance(error, ClientError) or (regional := self._services.get((service, region))) is None:
            return f"{operation} in {region}"
        return f"{operation} in {region} at {regional.host}"

    async def _regional(self, service: Service, region: str) -> RegionalService:
        async with self._opening:
            if regional := self._services.get((service, region)):
                return regional
            if self._http is None:
                ca_bundle = self._session.get_config_variable("ca_bundle")
                self._http = await self._open.enter_async_context(self._open_http(ca_bundle=ca_bundle))
            api, endpoint_url = await self._looked_up(service, region)
            regional = RegionalService(
                api, region=region, endpoint_url=endpoint_url, http=self._http, user_agent=self._user_agent
            )
            self._services[service, region] = regional
            return regional

    async def _looked_up(self, service: Service, region: str) -> tuple[Api, str]:
        """What botocore knows of a service, and where it is called in a Region."""
        url = self._endpoint_urls.get(f"{service}:{region}", self._endpoint_urls.get(service, self._endpoint_url))
        async with self._session.create_client(
            service, region_name=region, endpoint_url=url and url.replace("{region}", region)
        ) as client:
            return self._apis.setdefault(service, Api(client)), client.meta.endpoint_url


class _NoCredentials:
    """What the session's clients find when they look for credentials of their own."""

    async def load_credentials(self) -> None:
        return None


def _refuse_foreign_answer(response_dict: Mapping[str, Any], **_: Any) -> None:
    """For the calls that botocore makes itself, to exchange our pod's token for credentials."""
    FOREIGN_ANSWER_GUARDS["query"](response_dict)
