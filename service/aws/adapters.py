"""AWS as the service uses it: its adapters over one set of clients and credentials, opened and closed together."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.aws.clients import AwsClients, OnCall
from service.aws.credentials import AccountCredentials, OwnCredentials
from service.aws.keys import AwsKeys
from service.aws.log_groups import AwsLogGroups
from service.domain.log_group import AccountId
from service.ports import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Aws:
    """One adapter for each port."""

    log_groups: AwsLogGroups
    keys: AwsKeys


@asynccontextmanager
async def open_aws(
    *,
    clock: Clock,
    own_account: AccountId | None,
    role_name: str,
    external_id: str | None,
    role_session_name: str,
    sts_region: str,
    endpoint_url: str | None,
    connect_timeout_s: float,
    read_timeout_s: float,
    max_in_flight: int,
    user_agent: str,
    endpoint_urls: Mapping[str, str] | None = None,
    use_fips: bool = False,
    use_dualstack: bool = False,
    role_session_tags: Mapping[str, str] | None = None,
    key_fresh_s: float = 300.0,
    key_recheck_s: float = 15.0,
    on_call: OnCall = lambda *_: None,
) -> AsyncIterator[Aws]:
    """Open CloudWatch Logs and KMS, and close every connection at the end; nothing is sent before the first call.

    `own_account` is the account of our own credentials, None to ask STS. `role_name` may have a path. Which
    endpoints are called is told in `AwsClients`. `max_in_flight` is the size of the connection pool. `user_agent` is added to botocore's
    own. How long keys are not looked at again is told in `AwsKeys`, what `on_call` is told in `AwsClients`.
    """
    async with AwsClients(
        own_region=sts_region,
        endpoint_url=endpoint_url,
        connect_timeout_s=connect_timeout_s,
        read_timeout_s=read_timeout_s,
        max_in_flight=max_in_flight,
        user_agent=user_agent,
        endpoint_urls=endpoint_urls,
        use_fips=use_fips,
        use_dualstack=use_dualstack,
        on_call=on_call,
    ) as clients:
        await clients.load()
        credentials = AccountCredentials(
            clients=clients,
            own=OwnCredentials(chain=clients.credential_chain, clock=clock),
            clock=clock,
            own_account=own_account,
            role_name=role_name,
            role_session_name=role_session_name,
            role_session_tags=role_session_tags,
            external_id=external_id,
            sts_region=sts_region,
        )
        yield Aws(
            log_groups=AwsLogGroups(clients=clients, credentials=credentials),
            keys=AwsKeys(
                clients=clients, credentials=credentials, clock=clock, fresh_s=key_fresh_s, recheck_s=key_recheck_s
            ),
        )
