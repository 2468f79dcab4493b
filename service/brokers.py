"""How the brokers are reached by the settings, where they ask for AWS's proof of who we are too: Kafka's adapter knows nothing of AWS's."""

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from service.clock import LoopClock
from service.settings import Settings
from service.stream.connection import client_arguments


def kafka_arguments(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for aiokafka's consumer, producer and admin client. Raises SettingsError for unreadable certificates."""
    region = settings.msk_region
    return client_arguments(settings, make_token=None if region is None else _tokens_of(settings, region))


def _tokens_of(settings: Settings, region: str) -> Callable[[], Awaitable[str]]:
    """Tokens of the credentials that AWS is called with. A chain of their own finds them, as ingest and the command line open no AWS."""
    from service.aws.clients import AwsClients  # noqa: PLC0415  botocore takes a third of a second, which not every command needs
    from service.aws.credentials import OwnCredentials  # noqa: PLC0415
    from service.aws.kafka_token import KafkaTokens  # noqa: PLC0415

    user_agent = f"logwarden/{version('logwarden')}"
    clients = AwsClients(  # never entered: nothing but its chain is used
        own_region=settings.aws_sts_region,
        endpoint_url=settings.aws_endpoint_url,
        connect_timeout_s=settings.aws_connect_timeout_s,
        read_timeout_s=settings.aws_read_timeout_s,
        max_in_flight=1,
        user_agent=user_agent,
        use_fips=settings.aws_use_fips_endpoint,
        use_dualstack=settings.aws_use_dualstack_endpoint,
    )
    own = OwnCredentials(chain=clients.credential_chain, clock=LoopClock())
    return KafkaTokens(own=own, region=region, user_agent=user_agent).token
