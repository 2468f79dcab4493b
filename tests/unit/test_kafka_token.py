"""The proof that MSK takes for who connects, and how it gets to every client of Kafka."""

import asyncio
import datetime as dt
from base64 import urlsafe_b64decode
from urllib.parse import parse_qs, urlsplit

import botocore.auth
import pytest
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError
from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
from botocore.credentials import ReadOnlyCredentials
from structlog.testing import capture_logs

from service.aws.kafka_token import connect_token
from service.brokers import kafka_arguments
from service.domain.outcome import CallFailedError, FailureClass
from service.settings import Settings
from service.stream.token import NoTokenError, TokenProvider
from tests.support.aws_server import set_own_environment
from tests.support.virtual_time import virtual_time

KEYS = ReadOnlyCredentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None)
SESSION = ReadOnlyCredentials("ASIAEXAMPLE", "secret/+=", "token/with+odd=characters&more")
THEIR_USER_AGENT = MSKAuthTokenProvider.__get_user_agent__()


@pytest.fixture(autouse=True)
def at_one_time(monkeypatch):
    now = dt.datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001  botocore's own is naive
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: now)


def iam_settings(**fields):
    defaults = {
        "kafka_bootstrap_servers": "boot-abc.c2.kafka-serverless.eu-west-1.amazonaws.com:9098",
        "kafka_security_protocol": "SASL_SSL",
        "kafka_sasl_mechanism": "AWS_MSK_IAM",
    }
    return Settings(**{**defaults, **fields})


def query(token):
    return parse_qs(urlsplit(urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()).query)


@pytest.mark.parametrize("region", ["eu-west-1", "us-gov-west-1", "cn-north-1"])
@pytest.mark.parametrize("credentials", [KEYS, SESSION])
def test_a_token_is_the_one_that_awss_own_signer_makes(region, credentials):
    theirs, _ = getattr(MSKAuthTokenProvider, "__construct_auth_token")(region, credentials)
    assert connect_token(credentials, region=region, user_agent=THEIR_USER_AGENT) == theirs


def test_what_a_token_says_and_that_the_user_agent_is_not_signed():
    token = connect_token(SESSION, region="eu-west-1", user_agent="logwarden/1")
    assert "=" not in token
    said, other = query(token), query(connect_token(SESSION, region="eu-west-1", user_agent="logwarden/2"))
    assert said["Action"] == ["kafka-cluster:Connect"]
    assert said["X-Amz-Expires"] == ["900"]
    assert said["X-Amz-Credential"] == ["ASIAEXAMPLE/20260102/eu-west-1/kafka-cluster/aws4_request"]
    assert said["X-Amz-Security-Token"] == [SESSION.token]
    assert said.pop("User-Agent") == ["logwarden/1"] != other.pop("User-Agent")
    assert said == other


async def test_every_client_is_given_tokens_of_the_processs_own_credentials(monkeypatch):
    set_own_environment(monkeypatch, AWS_ACCESS_KEY_ID=KEYS.access_key, AWS_SECRET_ACCESS_KEY=KEYS.secret_key)
    arguments = kafka_arguments(iam_settings())
    assert arguments["sasl_mechanism"] == "OAUTHBEARER"
    assert not {"sasl_plain_username", "sasl_plain_password"} & arguments.keys()
    provider = arguments["sasl_oauth_token_provider"]
    assert isinstance(provider, AbstractTokenProvider)
    said = query(await provider.token())
    assert said["X-Amz-Credential"] == ["AKIDEXAMPLE/20260102/eu-west-1/kafka-cluster/aws4_request"]
    assert said["User-Agent"][0].startswith("logwarden/")


async def test_without_credentials_there_is_no_connection_and_the_log_says_why(monkeypatch):
    set_own_environment(monkeypatch, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    provider = kafka_arguments(iam_settings())["sasl_oauth_token_provider"]
    with capture_logs() as logs, pytest.raises(NoTokenError, match="no token for the broker: credentials-missing"):
        await provider.token()
    [line] = [line for line in logs if line["event"] == "kafka_token_missing"]
    assert line["log_level"] == "warning"
    assert line["hint"] == FailureClass.CREDENTIALS_MISSING.hint


@virtual_time
async def test_clients_that_try_again_and_again_say_so_every_half_minute():
    async def make():
        raise CallFailedError(FailureClass.CREDENTIALS_MISSING, "none")

    provider = TokenProvider(make)
    with capture_logs() as logs:
        for _ in range(620):  # 62 s
            with pytest.raises(KafkaError):  # which aiokafka takes for a broker that is away
                await provider.token()
            await asyncio.sleep(0.1)
    assert len(logs) == 3


def test_other_mechanisms_need_no_token():
    arguments = kafka_arguments(
        Settings(
            kafka_security_protocol="SASL_PLAINTEXT",
            kafka_sasl_mechanism="PLAIN",
            kafka_sasl_username="logwarden",
            kafka_sasl_password="hush",
        )
    )
    assert arguments["sasl_mechanism"] == "PLAIN"
    assert arguments["sasl_plain_password"] == "hush"
    assert "sasl_oauth_token_provider" not in arguments


@pytest.mark.parametrize(
    ("brokers", "region"),
    [
        ("boot-abc.c2.kafka-serverless.eu-west-1.amazonaws.com:9098", "eu-west-1"),
        (
            "b-1.demo.abc.c2.kafka.us-east-1.amazonaws.com:9098, b-2.demo.abc.c2.kafka.us-east-1.amazonaws.com:9098",
            "us-east-1",
        ),
        ("b-1-public.demo.abc.c2.kafka.ap-southeast-2.amazonaws.com:9198", "ap-southeast-2"),
        ("b-1.demo.abc.c2.kafka.cn-north-1.amazonaws.com.cn:9098", "cn-north-1"),
        ("b-1.demo.abc.c2.kafka.eu-west-1.api.aws:9098", "eu-west-1"),
    ],
)
def test_the_region_is_read_from_the_brokers_names(brokers, region):
    assert iam_settings(kafka_bootstrap_servers=brokers).msk_region == region
    assert iam_settings(kafka_bootstrap_servers=brokers, kafka_aws_region="us-west-2").msk_region == "us-west-2"


@pytest.mark.parametrize(
    "brokers",
    [
        "kafka.example.com:9098",
        "b-1.kafka.eu-west-1.amazonaws.com.example.com:9098",
        "b-1.x.kafka.eu-west-1.amazonaws.com:9098,b-2.x.kafka.eu-west-2.amazonaws.com:9098",
        "b-1.x.kafka.eu-west-1.amazonaws.com:9098,other.example.com:9098",
    ],
)
def test_where_the_names_do_not_say_the_region_the_settings_have_to(brokers):
    with pytest.raises(ValueError, match="LOGWARDEN_KAFKA_AWS_REGION, LOGWARDEN_KAFKA_BOOTSTRAP_SERVERS: "):
        iam_settings(kafka_bootstrap_servers=brokers)
    assert iam_settings(kafka_bootstrap_servers=brokers, kafka_aws_region="eu-west-1").msk_region == "eu-west-1"


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT"])
def test_a_token_is_sent_over_tls_only(protocol):
    with pytest.raises(
        ValueError, match=r"LOGWARDEN_KAFKA_SASL_MECHANISM, LOGWARDEN_KAFKA_SECURITY_PROTOCOL: .*SASL_SSL"
    ):
        iam_settings(kafka_security_protocol=protocol)
