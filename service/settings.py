"""Every setting: its unit, its default and the reason for it.

Each is read from the environment variable `LOGWARDEN_` and its name in capitals, or from a file of that whole name in the folder
that `LOGWARDEN_SECRETS_DIR` names. Units are in the names.
"""

import ipaddress
import json
import os
import re
import unicodedata
from collections import defaultdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    FilePath,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableSettingError

from service.domain.log_group import InvalidIdentityError, account_id, region_name
from service.domain.request import MAX_LOG_GROUPS

PREFIX = "LOGWARDEN_"
SECRETS_DIR = f"{PREFIX}SECRETS_DIR"
_NOT_SETTINGS = frozenset({SECRETS_DIR, f"{PREFIX}TOKEN", f"{PREFIX}KAFKA_HOME"})  # of the command line and the sandbox
_MAX_SESSION_TAGS = 50
_ENDPOINT_URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^\s?#{}]*)?\Z")
_BROKER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}\Z")
_MSK_IAM = "AWS_MSK_IAM"
_MSK_BROKER = re.compile(r"\.kafka(?:-serverless)?\.([a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|api\.aws):[0-9]+\s*\Z")
# As long as a sweep tries at a lane that does not answer: the next one would only wait for it.
_LEAST_INTERVAL_S = 3600.0
_ROLE_NAME = r"^/?([!-.0-~]+/)*[A-Za-z0-9_+=,.@-]{1,64}$"  # IAM's pattern of a path, then of a name
_EXTERNAL_ID = r"^[A-Za-z0-9_+=,.@:/-]{2,1224}$"  # AssumeRole's


class Role(StrEnum):
    """A part of the service that can run in a process of its own."""

    INGEST = "ingest"
    WORKER = "worker"
    HTTP = "http"


def _lane_rates(rates: dict[str, float]) -> dict[str, float]:
    for lane, rate in rates.items():
        account, _, region = lane.partition(":")
        try:
            account_id(account), region_name(region)
        except InvalidIdentityError as e:
            raise ValueError(f"{lane!r} is not ACCOUNT:REGION: {e}") from e
        if not 0 < rate <= 1000:
            raise ValueError(f"{lane}: a rate is more than 0 and at most 1000 calls a second")
    return rates


def _registry(address: SecretStr) -> SecretStr:
    scheme, _, rest = address.get_secret_value().partition(":")
    if scheme not in {"dynamodb", "postgresql", "postgres", "https", "http"} or not rest.strip("/"):
        raise ValueError("has to be dynamodb:TABLE, postgresql://... or https://...")
    if scheme == "http" and not _is_loopback(address.get_secret_value()):
        raise ValueError("has to be https://...: whoever is on the way could give any tenant any key")
    return address


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _brokers(servers: str) -> str:
    for server in servers.split(","):
        if not _BROKER.match(server.strip()):
            raise ValueError(f"{server!r} is not HOST:PORT")
    return servers


def _some(roles: frozenset[Role]) -> frozenset[Role]:
    if not roles:
        raise ValueError("at least one role has to run")
    return roles


def _ascending(delays_s: list[float]) -> list[float]:
    if any(d <= 0 for d in delays_s) or sorted(set(delays_s)) != delays_s:
        raise ValueError("delays are positive and ascending")
    return delays_s


def _replication(replicas: int) -> int:
    if replicas == 0:
        raise ValueError("a topic has one replica at least; -1 is for the brokers' default")
    return replicas


def _interval(interval_s: float) -> float:
    if 0 < interval_s < _LEAST_INTERVAL_S:
        raise ValueError(f"sweeps are {_LEAST_INTERVAL_S:.0f} s apart at least; 0 is for none")
    return interval_s


def _endpoint_url(url: str | None) -> str | None:
    if url is not None and not _ENDPOINT_URL.match(url.replace("{region}", "eu-west-1")):
        raise ValueError(f"{url!r} is not http(s)://HOST[:PORT][/PATH], with {{region}} where the Region goes")
    return url


def _endpoint_urls(urls: dict[str, str]) -> dict[str, str]:
    for at, url in urls.items():
        service, colon, region = at.partition(":")
        if service not in {"logs", "kms", "sts", "dynamodb"}:
            raise ValueError(
                f"{at!r} is not logs, kms, sts or dynamodb, nor one of these with a Region, as in logs:eu-west-1"
            )
        if colon:
            region_name(region)
        _endpoint_url(url)
    return urls


def _session_tags(tags: dict[str, str]) -> dict[str, str]:
    """The limits of AssumeRole: what STS would refuse is refused at the start, and not account by account."""
    if len(tags) > _MAX_SESSION_TAGS:
        raise ValueError(f"{len(tags)} tags: STS takes {_MAX_SESSION_TAGS}")
    if len({key.lower() for key in tags}) < len(tags):
        raise ValueError("two keys differ in nothing but case, which does not count to STS")
    for key, value in tags.items():
        if not 1 <= len(key) <= 128 or len(value) > 256:
            raise ValueError(f"{key[:80]!r}: a key has 1 to 128 characters, a value 256 at most")
        if key.lower().startswith("aws:"):
            raise ValueError(f"{key!r}: keys that start with aws: are AWS's own")
        if odd := [c for c in key + value if unicodedata.category(c)[0] not in "LNZ" and c not in "_.:/=+-@"]:
            raise ValueError(f"{key!r}: {odd[0]!r} is no letter, digit or space, nor one of _ . : / = + - @")
    return tags


class Settings(BaseSettings):
    """All settings of one process. Unknown `LOGWARDEN_` variables are refused: a misspelt setting must not pass unseen."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
    )

    # -- what runs
    roles: Annotated[frozenset[Role], NoDecode, AfterValidator(_some)] = Field(
        frozenset(Role), description="Which parts run in this process, comma-separated: `ingest`, `worker`, `http`."
    )
    dry_run: bool = Field(
        default=False,
        description="Do everything but the call; the outcome says `would-seal`, or what would fail as far as the key's state and "
        "policy tell. For a first look at an organisation.",
    )

    # -- Kafka
    kafka_bootstrap_servers: Annotated[str, AfterValidator(_brokers)] = Field(
        "localhost:9092", description="Brokers to ask first, `host:port`, comma-separated."
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How brokers are spoken to. Anything but a local broker wants `SSL` or `SASL_SSL`."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "AWS_MSK_IAM"] = Field(
        "SCRAM-SHA-512",
        description="SASL mechanism where the protocol is a SASL one. MSK offers SCRAM-SHA-512, and IAM: with `AWS_MSK_IAM` there is "
        "no user or password, the process's own AWS credentials are the proof, as OAUTHBEARER.",
    )
    kafka_aws_region: Annotated[str, AfterValidator(region_name)] | None = Field(
        None, description="Region of the MSK cluster, for `AWS_MSK_IAM`; read from the brokers' names where unset."
    )
    kafka_sasl_username: str | None = Field(None, description="SASL user.")
    kafka_sasl_password: SecretStr | None = Field(
        None, description="SASL password; better as a file in the secrets folder."
    )
    kafka_ssl_cafile: FilePath | None = Field(
        None, description="CA bundle (PEM) for the brokers; the system's where unset."
    )
    kafka_ssl_certfile: FilePath | None = Field(None, description="Client certificate (PEM) for mutual TLS.")
    kafka_ssl_keyfile: FilePath | None = Field(None, description="Key (PEM) of the client certificate.")
    kafka_group_prefix: str = Field(
        "logwarden", description="Consumer groups are `PREFIX-ingest`, `PREFIX-worker`, `PREFIX-retry`."
    )

    kafka_fetch_max_wait_ms: int = Field(
        500,
        ge=1,
        description="How long a broker may hold an empty fetch (milliseconds); a record that arrives ends the wait.",
    )

    # -- topics
    source_topics: Annotated[list[str], NoDecode] = Field(
        ["logwarden.events"],
        min_length=1,
        description="Topics with log-group events in any accepted shape, comma-separated.",
    )
    work_topic: str = Field("logwarden.work", description="Commands, keyed by `account:region`.")
    retry_topic: str = Field(
        "logwarden.retry", description="Prefix of the retry topics, one a delay: `PREFIX.1`, `PREFIX.2`, ..."
    )
    outcomes_topic: str = Field("logwarden.outcomes", description="What became of every command.")
    dead_letter_topic: str = Field(
        "logwarden.dead-letters", description="Records that cannot be worked, bytes unchanged."
    )
    requests_topic: str = Field(
        "logwarden.requests", description="Manual requests and their outcomes, so that any replica can answer."
    )
    control_topic: str = Field(
        "logwarden.control",
        description="Whether the service is paused, and by whom, and which lanes are held: one partition, compacted, so that the last "
        "word is kept.",
    )
    work_partitions: int = Field(
        48, ge=1, le=10_000, description="Partitions of the work topic at creation: the upper limit of worker replicas."
    )
    topic_partitions: int = Field(12, ge=1, le=10_000, description="Partitions of the other topics at creation.")
    topic_replication: Annotated[int, AfterValidator(_replication)] = Field(
        3,
        ge=-1,
        le=32_767,
        description="Replicas of each topic at creation. With 3 or more a write needs two of them (`min.insync.replicas`), so that none is "
        "lost with a broker; -1 leaves both to the brokers' defaults. 1 is for a single broker, and is not warned of.",
    )
    topic_request_retention_s: int = Field(
        86_400,
        ge=60,
        description="How long a manual request can be asked for (seconds): retention of the requests topic.",
    )

    # -- pace
    rate_per_s: float = Field(
        5.0,
        gt=0,
        le=1000,
        description="AssociateKmsKey calls a second for each account and Region: AWS's quota, not adjustable.",
    )
    describe_rate_per_s: float = Field(
        10.0,
        gt=0,
        le=1000,
        description="DescribeLogGroups calls a second for each account and Region, of up to 50 groups each: AWS's quota, which it "
        "raises when asked. Lower it where others describe log groups all the time.",
    )
    tags_rate_per_s: float = Field(
        5.0,
        gt=0,
        le=1000,
        description="ListTagsForResource calls a second for each account and Region, where a rule depends on tags: AWS's quota, "
        "not adjustable.",
    )
    lane_rates_per_s: Annotated[dict[str, float], NoDecode, AfterValidator(_lane_rates)] = Field(
        {},
        description='AssociateKmsKey rates for single lanes, as JSON: `{"111122223333:eu-west-1": 2.5}`, where others spend the quota too.',
    )
    max_in_flight: int = Field(
        256,
        ge=1,
        le=4096,
        description="Commands that call CloudWatch Logs at once, or are about to; those that wait (for a token, a session, the registry, a "
        "look at a key, another try or Kafka) are not among them. Also the size of the connection pool to AWS.",
    )
    lane_max_in_flight: int = Field(
        16,
        ge=1,
        description="The same within one lane: calls may take 3 s at 5 a second, and one sick lane leaves room for others.",
    )
    max_pending: int = Field(
        100_000,
        ge=100,
        description="Commands waiting in one replica, of a few hundred bytes each; from half of that on only the emptiest partitions "
        "are fetched.",
    )

    observe_after_s: float = Field(
        60.0,
        ge=0,
        description="How long what an event shows of a group's key is believed (seconds); after that the group is described before "
        "it is associated, so that a replay costs one call for 50 groups.",
    )

    sweep_max_waiting: int = Field(
        10_000,
        ge=100,
        description="Log groups that sweeps have found and that wait in one replica at once, besides `max_pending`; lanes have places in "
        "turn, each two pages' worth (100) at most, which is 20 s of its quota.",
    )

    sweep_interval_s: Annotated[float, AfterValidator(_interval)] = Field(
        0.0,
        ge=0,
        le=30 * 86_400,
        description="How often every log group is looked at (seconds; an hour or more, after which a sweep gives up a lane that does not "
        "answer), for what events have missed; 0 for never, since it takes a call for "
        "50 groups of the DescribeLogGroups quota that others may need. A day's begins at midnight, UTC. Beyond "
        "`topic_request_retention_s` a restart begins one more.",
    )
    rekey_automatically: bool = Field(
        default=False,
        description="Whether a tenant's changed key in the registry has its log groups brought under it, without `logwarden rekey`. Off, "
        "since a mistake in the file would go everywhere. The first start, and one after `topic_request_retention_s`, looks at everything.",
    )

    verify_after_s: float = Field(
        5.0,
        ge=0,
        description="How long after a group was sealed it is looked at again (seconds; AWS shows the key within one), 0 for never: 50 "
        "groups a call, at the least urgent priority.",
    )

    # -- retries
    in_place_attempts: int = Field(
        6,
        ge=1,
        le=20,
        description="Tries of each kind of call for one command before it goes to a retry topic, or its lane waits: six seconds of "
        "exponential waiting on average, 12.5 at most.",
    )
    in_place_max_wait_s: float = Field(5.0, gt=0, description="The longest single wait between them (seconds).")
    retry_delays_s: Annotated[list[float], NoDecode, AfterValidator(_ascending)] = Field(
        [30.0, 120.0, 600.0, 3600.0],
        description="Delays of the retry topics (seconds), comma-separated: an IAM change, a deploy, a colleague, a morning.",
    )
    hold_s: float = Field(
        5.0, gt=0, description="How long a lane waits after a fault that is not the record's (seconds); doubles."
    )
    max_hold_s: float = Field(60.0, gt=0, description="The longest such wait (seconds): recovery is noticed within it.")
    hold_at_most_s: float = Field(
        900.0,
        gt=0,
        description="How long a command waits in such a lane before it does so on the retry topics (seconds), so that a role that is never "
        "made does not keep the commit position of a partition where it is.",
    )

    dead_letter_max_consecutive: int = Field(
        10_000,
        ge=1,
        description="Dead letters in a row, without a success anywhere, after which none is written any more: that is a bad deploy, "
        "not bad records. Of one account a third of them counts at the most, apart from what AWS calls invalid or answers in an unknown "
        "way: that is the release's.",
    )
    dead_letter_max_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share (0 to 1) of the last 10,000 records that may be malformed, or refused by AWS in a way that is unknown or the "
        "release's fault, before the same.",
    )

    # -- offsets and shutdown
    commit_interval_s: float = Field(
        1.0,
        gt=0,
        description="How often offsets are committed (seconds): what a crash works again. The worker's are at least every 2 s, which "
        "is how it knows that its lanes are still its own.",
    )
    commit_timeout_s: float = Field(
        10.0,
        gt=0,
        description="How long a commit may take (seconds); aiokafka has no limit of its own. A worker gives up after 3 s, since by its "
        "commits it knows that its lanes are still its own, but for the last one of an assignment.",
    )
    rebalance_drain_s: float = Field(
        20.0, gt=0, description="How long what has started may take to finish when partitions are taken away (seconds)."
    )
    shutdown_drain_s: float = Field(
        90.0,
        gt=0,
        description="How long the whole stop may take after SIGTERM (seconds), the last 15 of them for commits and for closing what is "
        "open; keep it under terminationGracePeriodSeconds.",
    )

    # -- tenants
    tenants_file: Path = Field(
        Path("/etc/logwarden/tenants.yaml"),
        description="The tenant file (YAML), or a folder of such files; read again when it changes.",
    )
    registry: Annotated[SecretStr, AfterValidator(_registry)] | None = Field(
        None,
        description="Where tenants are asked for instead, account by account: `dynamodb:TABLE`, "
        "`postgresql://USER@HOST/DATABASE?sslmode=verify-full` or `https://HOST/PATH` (`http` only on the same machine). The tenant "
        "file is not read then.",
    )
    registry_password: SecretStr | None = Field(
        None, description="PostgreSQL password, where the address has none; better as a file in the secrets folder."
    )
    registry_token_file: Path | None = Field(
        None, description="File with the bearer token for an HTTP registry, read for each request."
    )
    registry_dynamodb_region: Annotated[str, AfterValidator(region_name)] | None = Field(
        None, description="Region of the DynamoDB table; that of `aws_sts_region` where unset."
    )
    registry_ttl_s: float = Field(
        60.0,
        gt=0,
        description="How long an answer is used (seconds): a changed key is seen by then, at once where the registry tells of changes.",
    )
    registry_negative_ttl_s: float = Field(
        10.0,
        gt=0,
        description="How long it is believed that nobody lists an account (seconds): new accounts should not wait for long.",
    )
    registry_max_stale_s: float = Field(
        3600.0,
        gt=0,
        description="How old an answer may grow while the registry fails (seconds); past that the lanes of the account wait. Less, "
        "where a withdrawn key must not be used for an hour.",
    )
    registry_timeout_s: float = Field(
        3.0, gt=0, description="How long one question may take (seconds); a registry nearby takes milliseconds."
    )
    registry_poll_interval_s: float = Field(
        5.0,
        gt=0,
        description="How often the registry's version is read (seconds), one small request each time: how soon a change is seen.",
    )
    registry_max_accounts: int = Field(
        10_000, ge=1, description="Accounts whose tenants are kept in memory, some kB each; the last used ones."
    )

    # -- events
    event_formats_file: Path | None = Field(
        None,
        description="File of custom event formats (YAML), read at the start. Unset: AWS's events and our own only.",
    )

    # -- AWS
    aws_own_account: Annotated[str, AfterValidator(account_id)] | None = Field(
        None, description="The account of our own credentials: no role is assumed there. Asked of STS where unset."
    )
    aws_role_name: Annotated[str, StringConstraints(pattern=_ROLE_NAME, max_length=576)] = Field(
        "logwarden", description="Name (with path) of the role to assume in every other account."
    )
    aws_external_id: Annotated[str, StringConstraints(pattern=_EXTERNAL_ID)] | None = Field(
        None, description="External id that those roles ask for."
    )
    aws_role_session_name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+=,.@-]{2,64}$")] = Field(
        "logwarden", description="Session name, as CloudTrail will show it."
    )
    aws_role_session_tags: Annotated[dict[str, str], NoDecode, AfterValidator(_session_tags)] = Field(
        {},
        description='Tags of those sessions, as JSON: `{"team": "platform"}`, for policies that ask for `aws:PrincipalTag/team`. Both '
        "sides have to allow `sts:TagSession`.",
    )
    aws_sts_region: Annotated[str, AfterValidator(region_name)] = Field(
        "us-east-1", description="Region whose STS endpoint is asked; choose the one you run in."
    )
    aws_endpoint_url: Annotated[str | None, AfterValidator(_endpoint_url)] = Field(
        None,
        description="URL of one endpoint for every AWS service, for a local stand-in or a gateway; `{region}` in it is replaced.",
    )
    aws_endpoint_urls: Annotated[dict[str, str], NoDecode, AfterValidator(_endpoint_urls)] = Field(
        {},
        description="URLs by service (`logs`, `kms`, `sts`, `dynamodb`) or `SERVICE:REGION`, as JSON: "
        '`{"logs": "https://logs.{region}.example"}`, for VPC endpoints without private DNS names. They come before the one for all.',
    )
    aws_use_fips_endpoint: bool = Field(
        default=False, description="Call AWS's FIPS endpoints, where no URL is set; some Regions have none."
    )
    aws_use_dualstack_endpoint: bool = Field(
        default=False, description="Call AWS's dual-stack endpoints (IPv4 and IPv6), where no URL is set."
    )
    aws_connect_timeout_s: float = Field(3.0, gt=0, description="Time to connect (seconds); AWS takes milliseconds.")
    aws_read_timeout_s: float = Field(
        10.0, gt=0, description="Time to an answer (seconds); AssociateKmsKey takes well under 1."
    )
    aws_key_fresh_s: float = Field(
        300.0,
        ge=0,
        description="How long a key that is in order is not looked at again (seconds); a refusal by AWS ends it. The lack of a right to "
        "look is remembered as long.",
    )
    aws_key_recheck_s: float = Field(
        15.0,
        ge=0,
        description="How long a key that cannot be used, or seen, is not looked at again (seconds): under the first retry delay, so that "
        "a retry meets the key as it is.",
    )

    # -- the side-port
    http_host: str = Field("0.0.0.0", description="Address to listen on; probes come from the node.")  # noqa: S104  a pod's port
    http_port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one and logs it.")
    api_token_file: Path | None = Field(
        None,
        description="File with the bearer tokens for `/v1`, one a line, read again when it changes. Unset: all of it is closed.",
    )
    http_max_groups: int = Field(
        1000,
        ge=1,
        le=MAX_LOG_GROUPS,
        description=f"Log groups in one request, {MAX_LOG_GROUPS} at the most, which is what a record holds: a larger list is several "
        "requests.",
    )
    http_max_wait_s: float = Field(
        30.0, ge=0, description="The longest `Prefer: wait` honoured (seconds): under usual proxy limits."
    )

    # -- telemetry
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")
    log_format: Literal["json", "console"] = Field("json", description="`json` for machines, `console` for people.")
    metrics_max_lanes: int = Field(
        50,
        ge=0,
        description="Lanes with metrics of their own, held ones first, then the fullest; all the others are in the totals.",
    )

    @field_validator("roles", "source_topics", "retry_delays_s", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("lane_rates_per_s", "aws_role_session_tags", "aws_endpoint_urls", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        """Here, not in pydantic-settings, which gives up at the first that is not JSON."""
        try:
            return json.loads(value) if isinstance(value, str) else value
        except (ValueError, RecursionError) as e:
            raise ValueError(f"is not JSON: {e}") from e

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """What settings have to do with each other; a problem names them as they are in the environment."""
        if self.kafka_sasl_mechanism == _MSK_IAM:
            self._check_msk_iam()
        elif self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError(_together("a SASL protocol needs both", "kafka_sasl_username", "kafka_sasl_password"))
        if self.registry_max_stale_s < self.registry_ttl_s:
            raise ValueError(_together("the first is at least the second", "registry_max_stale_s", "registry_ttl_s"))
        settings_of = defaultdict(list)
        for setting, names in (
            ("source_topics", self.source_topics),
            ("work_topic", [self.work_topic]),
            ("retry_topic", self.retry_topics),
            ("outcomes_topic", [self.outcomes_topic]),
            ("dead_letter_topic", [self.dead_letter_topic]),
            ("requests_topic", [self.requests_topic]),
            ("control_topic", [self.control_topic]),
        ):
            for name in names:
                settings_of[name].append(setting)
        for name, settings in settings_of.items():
            if len(settings) > 1:
                raise ValueError(_together(f"two topics have one name, {name}", *settings))
        return self

    def _check_msk_iam(self) -> None:
        if self.kafka_security_protocol != "SASL_SSL":
            raise ValueError(
                _together(
                    f"{_MSK_IAM} goes with SASL_SSL, which is all that MSK takes it over",
                    "kafka_sasl_mechanism",
                    "kafka_security_protocol",
                )
            )
        if self.msk_region is None:
            raise ValueError(
                _together(
                    "the brokers' names do not say one Region, so the first has to",
                    "kafka_aws_region",
                    "kafka_bootstrap_servers",
                )
            )

    @property
    def msk_region(self) -> str | None:
        """The Region that is signed for to connect to MSK by IAM; None where the brokers want another proof."""
        if self.kafka_sasl_mechanism != _MSK_IAM:
            return None
        if self.kafka_aws_region is not None:
            return self.kafka_aws_region
        brokers = self.kafka_bootstrap_servers.split(",")
        regions = {match[1] if (match := _MSK_BROKER.search(broker)) else None for broker in brokers}
        return regions.pop() if len(regions) == 1 else None

    @property
    def is_msk_serverless(self) -> bool:
        """Whether the brokers' names are those of MSK Serverless, which lets few settings of a topic be chosen."""
        return ".kafka-serverless." in self.kafka_bootstrap_servers

    def aws_endpoint_url_of(self, service: str, region: str) -> str | None:
        """Where a service of AWS is called in a Region; None for AWS's own endpoint."""
        urls = self.aws_endpoint_urls
        url = urls.get(f"{service}:{region}", urls.get(service, self.aws_endpoint_url))
        return url and url.replace("{region}", region)

    @property
    def retry_topics(self) -> list[str]:
        """The retry topics in the order of `retry_delays_s`."""
        return [f"{self.retry_topic}.{step}" for step in range(1, len(self.retry_delays_s) + 1)]


class SettingsError(Exception):
    """The environment does not make valid settings; the text names each variable and what is wrong with it."""


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment and the secrets folder; `overrides` win over both. Raises SettingsError."""
    folder = os.environ.get(SECRETS_DIR)
    names = {*os.environ, *(_files_in(folder) if folder else ())}
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | _NOT_SETTINGS
    if unknown := sorted(name for name in names if name.startswith(PREFIX) and name.upper() not in known):
        raise SettingsError("\n".join(f"{name}: no such setting" for name in unknown))
    try:
        return Settings(_secrets_dir=folder, **overrides)
    except ValidationError as e:
        raise SettingsError("\n".join(map(_problem, e.errors(include_url=False)))) from e
    except UnreadableSettingError as e:  # of a file: those of the environment are texts
        raise SettingsError(f"{SECRETS_DIR}: {e}: {e.__cause__}") from e


def _problem(error: ErrorDetails) -> str:
    """One wrong setting: the variable as it is in the environment, and what is wrong with it; the entry, where it is a list."""
    if not error["loc"]:  # of several settings, which the text names
        return error["msg"].removeprefix("Value error, ")
    name, *entry = error["loc"]
    where = f" (entry {'.'.join(map(str, entry))})" if entry else ""
    return f"{PREFIX}{str(name).upper()}{where}: {error['msg'].removeprefix('Value error, ')}"


def _together(problem: str, *settings: str) -> str:
    return f"{', '.join(dict.fromkeys(f'{PREFIX}{setting.upper()}' for setting in settings))}: {problem}"


def _files_in(folder: str) -> list[str]:
    try:
        return [path.name for path in Path(folder).iterdir()]
    except OSError as e:
        raise SettingsError(f"{SECRETS_DIR}: {e}") from e
