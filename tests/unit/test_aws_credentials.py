import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field

import pytest
from aiobotocore.credentials import AioCredentials
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import CredentialRetrievalError
from structlog.testing import capture_logs

from service.aws.clients import AwsClients, SigningCredentials
from service.aws.credentials import AccountCredentials, OwnCredentials
from service.domain.log_group import AccountId
from service.domain.outcome import CallFailedError, FailureClass
from tests.support.aws_server import CUT, OWN_ACCOUNT, Answer, query_error, scripted_aws, set_own_environment

ACCOUNT = AccountId("111122223333")
OTHER = AccountId("444455556666")
DENIED = query_error("AccessDenied", "User: x is not authorized to perform: sts:AssumeRole on resource: y", status=403)


@dataclass
class ManualClock:
    """Time that passes when the test says so."""

    seconds: float = 1000.0
    slept_s: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.seconds

    def epoch_ms(self) -> int:
        return 1_800_000_000_000 + round(self.seconds * 1000)

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    set_own_environment(monkeypatch)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def aws():
    async with scripted_aws() as aws:
        yield aws


@pytest.fixture
async def clients(aws):
    async with AwsClients(
        own_region="eu-central-1",
        endpoint_url=aws.endpoint,
        connect_timeout_s=5.0,
        read_timeout_s=5.0,
        max_in_flight=16,
        user_agent="logwarden/1",
    ) as clients:
        yield clients


@pytest.fixture
def own(clients, clock):
    return OwnCredentials(chain=clients.credential_chain, clock=clock)


@pytest.fixture
def build(clients, own, clock):
    def build(**changes):
        settings = {
            "own_account": AccountId(OWN_ACCOUNT),
            "role_name": "logwarden",
            "role_session_name": "logwarden-1",
            "external_id": None,
            "sts_region": "eu-central-1",
        }
        settings |= {"clients": clients, "own": own, "clock": clock, "sleep": clock.sleep}
        return AccountCredentials(**(settings | changes))

    return build


async def frozen(credentials: AccountCredentials, account: AccountId = ACCOUNT) -> ReadOnlyCredentials:
    return await (await credentials.of(account)).get_frozen_credentials()


async def failure_of(calling: Awaitable[object]) -> FailureClass:
    with pytest.raises(CallFailedError) as raised:
        await calling
    return raised.value.failure


async def test_another_accounts_credentials_come_from_its_role(aws, build):
    session = await frozen(build(role_name="/platform/logwarden", external_id="shared-secret"))
    assert session.access_key == f"ROLE{ACCOUNT}N1"
    assert session.token == f"token-{ACCOUNT}-1"
    [request] = aws.requests
    assert request.access_key == "OWNKEY"
    assert request.region == "eu-central-1"
    asked = ("RoleArn", "RoleSessionName", "DurationSeconds", "ExternalId")
    assert [request.params[name] for name in asked] == [
        f"arn:aws:iam::{ACCOUNT}:role/platform/logwarden",
        "logwarden-1",
        "3600",
        "shared-secret",
    ]


async def test_the_sessions_tags_are_sent_and_none_of_them_goes_further(aws, build):
    await frozen(build(role_session_tags={"team": "platform & co", "cost": ""}))
    sent = {name: value for name, value in aws.requests[0].params.items() if "Tag" in name}
    assert sent == {
        "Tags.member.1.Key": "team",
        "Tags.member.1.Value": "platform & co",
        "Tags.member.2.Key": "cost",
        "Tags.member.2.Value": "",
    }


async def test_no_external_id_is_sent_where_none_is_set(aws, build):
    await frozen(build())
    assert "ExternalId" not in aws.requests[0].params


@pytest.mark.parametrize(("sts_region", "partition"), [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")])
async def test_a_role_is_named_in_the_partition_of_our_own_credentials(aws, build, sts_region, partition):
    await frozen(build(sts_region=sts_region))
    assert aws.requests[0].params["RoleArn"] == f"arn:{partition}:iam::{ACCOUNT}:role/logwarden"


async def test_no_role_is_assumed_in_our_own_account(aws, build):
    assert (await frozen(build(), AccountId(OWN_ACCOUNT))).access_key == "OWNKEY"
    assert aws.requests == []


async def test_sts_is_asked_once_which_account_is_our_own_where_it_is_not_set(aws, build):
    credentials = build(own_account=None)
    found = await asyncio.gather(*(frozen(credentials, account) for account in [AccountId(OWN_ACCOUNT), ACCOUNT] * 5))
    assert {session.access_key for session in found} == {"OWNKEY", f"ROLE{ACCOUNT}N1"}
    assert len(aws.requests_of("GetCallerIdentity")) == 1


async def test_nothing_is_sent_before_credentials_are_asked_for(aws, build):
    build(own_account=None)
    assert aws.requests == []


async def test_an_unknown_own_account_is_asked_for_again_only_after_a_moment(aws, build, clock):
    credentials = build(own_account=None)
    aws.script("GetCallerIdentity", *[query_error("InternalFailure", status=500)] * 3)
    for _ in range(5):
        assert await failure_of(credentials.of(ACCOUNT)) is FailureClass.SERVICE_UNAVAILABLE
    assert len(aws.requests) == 3
    clock.seconds += 4
    assert (await frozen(credentials)).access_key == f"ROLE{ACCOUNT}N1"


async def test_many_first_calls_of_an_account_assume_its_role_once(aws, build):
    credentials = build()
    sessions = await asyncio.gather(*(frozen(credentials) for _ in range(200)))
    assert {session.token for session in sessions} == {f"token-{ACCOUNT}-1"}
    assert len(aws.requests) == 1


async def test_accounts_do_not_wait_for_each_other(aws, build):
    credentials = build()
    aws.released.clear()
    calls = [asyncio.ensure_future(frozen(credentials, account)) for account in (ACCOUNT, OTHER)]
    await aws.until_in_flight(2)
    aws.released.set()
    sessions = await asyncio.gather(*calls)
    assert [str(session.access_key)[4:16] for session in sessions] == [ACCOUNT, OTHER]


async def test_a_session_is_kept_until_its_last_quarter_of_an_hour(aws, build, clock):
    credentials = build()
    await frozen(credentials)
    clock.seconds += 3600 - 901
    assert (await frozen(credentials)).token == f"token-{ACCOUNT}-1"
    clock.seconds += 2
    assert (await frozen(credentials)).token == f"token-{ACCOUNT}-2"
    clock.seconds += 3600 - 901
    assert (await frozen(credentials)).token == f"token-{ACCOUNT}-2"


async def test_calls_go_on_with_the_old_session_while_one_of_them_renews_it(aws, build, clock):
    credentials = build()
    await frozen(credentials)
    clock.seconds += 3000
    aws.released.clear()
    renewing = asyncio.ensure_future(frozen(credentials))
    await aws.until_in_flight(1)
    assert (await frozen(credentials)).token == f"token-{ACCOUNT}-1"
    aws.released.set()
    assert (await renewing).token == f"token-{ACCOUNT}-2"


async def test_an_outage_of_sts_is_bridged_by_the_session_until_its_last_minute(aws, build, clock):
    credentials = build()
    await frozen(credentials)
    aws.script("AssumeRole", *[query_error("ServiceUnavailable", status=503)] * 6)
    with capture_logs() as logs:
        for seconds in (2750, 0, 1, 780):  # the second and third are within the moment that the failure is remembered
            clock.seconds += seconds
            assert (await frozen(credentials)).token == f"token-{ACCOUNT}-1"
    assert [(log["event"], log["failure"], log["left_s"]) for log in logs] == [
        ("session_not_renewed", "service-unavailable", 850),
        ("session_not_renewed", "service-unavailable", 69),
    ]
    assert len(aws.requests) == 7
    clock.seconds += 10
    aws.script("AssumeRole", *[CUT] * 3)
    assert await failure_of(frozen(credentials)) is FailureClass.UNREACHABLE
    clock.seconds += 4
    assert (await frozen(credentials)).token == f"token-{ACCOUNT}-11"


async def test_a_role_that_cannot_be_assumed_costs_sts_one_request_however_many_wait(aws, build):
    credentials = build()
    aws.script("AssumeRole", *[DENIED] * 100)
    failures = await asyncio.gather(*(failure_of(frozen(credentials)) for _ in range(50)))
    assert set(failures) == {FailureClass.ROLE_NOT_ASSUMABLE}
    assert len(aws.requests) == 1


async def test_a_mended_role_is_used_a_moment_later(aws, build, clock):
    credentials = build()
    aws.script("AssumeRole", DENIED)
    assert await failure_of(frozen(credentials)) is FailureClass.ROLE_NOT_ASSUMABLE
    clock.seconds += 2.9
    assert await failure_of(frozen(credentials)) is FailureClass.ROLE_NOT_ASSUMABLE
    assert len(aws.requests) == 1
    clock.seconds += 0.2
    assert (await frozen(credentials)).token == f"token-{ACCOUNT}-2"


async def test_one_broken_role_does_not_touch_another_account(aws, build):
    credentials = build()
    aws.script("AssumeRole", DENIED)
    assert await failure_of(frozen(credentials)) is FailureClass.ROLE_NOT_ASSUMABLE
    assert (await frozen(credentials, OTHER)).token == f"token-{OTHER}-2"


async def test_the_failure_names_the_role_and_what_sts_said(aws, build):
    aws.script("AssumeRole", DENIED)
    with pytest.raises(CallFailedError) as raised:
        await frozen(build())
    assert (
        f"role arn:aws:iam::{ACCOUNT}:role/logwarden: assume_role in eu-central-1: AccessDenied" in raised.value.detail
    )


@pytest.mark.parametrize(
    ("answer", "failure", "requests"),
    [
        (DENIED, FailureClass.ROLE_NOT_ASSUMABLE, 1),
        (query_error("ValidationError", "roleSessionName"), FailureClass.ROLE_NOT_ASSUMABLE, 1),
        (query_error("RegionDisabledException", status=403), FailureClass.ROLE_NOT_ASSUMABLE, 1),
        (query_error("SomethingNew"), FailureClass.ROLE_NOT_ASSUMABLE, 1),
        (query_error("ExpiredToken"), FailureClass.CREDENTIALS_REJECTED, 1),
        (query_error("InvalidClientTokenId", status=403), FailureClass.CREDENTIALS_REJECTED, 1),
        (query_error("InternalFailure", status=500), FailureClass.SERVICE_UNAVAILABLE, 3),
        # THROTTLED would slow the lane down, whose own quota has nothing to do with it
        (query_error("Throttling"), FailureClass.SERVICE_UNAVAILABLE, 3),
        (CUT, FailureClass.UNREACHABLE, 3),
    ],
)
async def test_a_failed_assume_has_a_class_that_never_blames_the_record(aws, build, answer, failure, requests):
    aws.script("AssumeRole", *[answer] * 5)
    assert await failure_of(frozen(build())) is failure
    assert len(aws.requests) == requests
    assert failure.recourse.value in ("hold", "defer-always")


async def test_a_passing_failure_of_sts_is_tried_again_at_once(aws, build, clock):
    aws.script("AssumeRole", query_error("Throttling"), CUT)
    assert (await frozen(build())).token == f"token-{ACCOUNT}-3"
    assert len(clock.slept_s) == 2
    assert sum(clock.slept_s) < 2.5


async def test_rejected_credentials_are_replaced_at_the_next_call(aws, build, clock):
    credentials = build()
    rejected = await credentials.of(ACCOUNT)
    await rejected.get_frozen_credentials()
    clock.seconds += 60
    credentials.forget(ACCOUNT, rejected)
    assert (await frozen(credentials)).token == f"token-{ACCOUNT}-2"


async def test_a_late_rejection_of_an_old_session_leaves_the_new_one(aws, build, clock):
    credentials = build()
    rejected = await credentials.of(ACCOUNT)
    await rejected.get_frozen_credentials()
    clock.seconds += 60
    credentials.forget(ACCOUNT, rejected)
    await frozen(credentials)
    clock.seconds += 60
    credentials.forget(ACCOUNT, rejected)
    assert (await frozen(credentials)).token == f"token-{ACCOUNT}-2"


async def test_a_session_that_is_rejected_from_the_start_is_not_fetched_again_and_again(aws, build, clock):
    credentials = build()
    for _ in range(5):
        session = await credentials.of(ACCOUNT)
        await session.get_frozen_credentials()
        credentials.forget(ACCOUNT, session)
        clock.seconds += 0.5
    assert len(aws.requests) == 1


async def test_the_least_recently_used_account_makes_room(aws, build):
    credentials = build(max_accounts=2)
    for account in (ACCOUNT, OTHER, ACCOUNT, AccountId("777788889999"), ACCOUNT):
        await frozen(credentials, account)
    assert len(aws.requests) == 3
    await frozen(credentials, OTHER)
    assert len(aws.requests) == 4


async def test_sessions_of_idle_accounts_are_dropped(build, clock):
    credentials = build()
    await frozen(credentials)
    clock.seconds += 3601
    await frozen(credentials, OTHER)
    assert list(credentials._sessions) == [OTHER]


async def test_a_cancelled_first_call_leaves_the_next_one_to_assume_the_role(aws, build):
    credentials = build()
    aws.released.clear()
    first, second = (asyncio.ensure_future(frozen(credentials)) for _ in range(2))
    await aws.until_in_flight(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    aws.released.set()
    assert (await second).token == f"token-{ACCOUNT}-2"


class Chain:
    """A credential chain that finds what it is told to, one after the other."""

    def __init__(self, *found: SigningCredentials | Exception | None) -> None:
        self.found = list(found)
        self.searches = 0

    async def load_credentials(self) -> SigningCredentials | None:
        self.searches += 1
        await asyncio.sleep(0)
        found = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        if isinstance(found, Exception):
            raise found
        return found


FOUND, NEWER = AioCredentials("FIRST", "secret"), AioCredentials("SECOND", "secret")


async def test_our_own_credentials_are_looked_for_once(clock):
    chain = Chain(FOUND)
    own = OwnCredentials(chain=chain, clock=clock)
    found = await asyncio.gather(*(own.get_frozen_credentials() for _ in range(20)))
    assert {credentials.access_key for credentials in found} == {"FIRST"}
    assert chain.searches == 1


@pytest.mark.parametrize(
    "nothing", [None, CredentialRetrievalError(provider="container-role", error_msg="connection refused")]
)
async def test_credentials_that_are_not_there_are_looked_for_again_after_a_moment(clock, nothing):
    chain = Chain(nothing, FOUND)
    own = OwnCredentials(chain=chain, clock=clock)
    failures = await asyncio.gather(*(failure_of(own.get_frozen_credentials()) for _ in range(20)))
    assert set(failures) == {FailureClass.CREDENTIALS_MISSING}
    assert chain.searches == 1
    clock.seconds += 4
    assert (await own.get_frozen_credentials()).access_key == "FIRST"


async def test_a_credential_source_that_does_not_answer_is_unreachable_and_not_missing(clock):
    own = OwnCredentials(chain=Chain(ConnectionRefusedError(111, "refused")), clock=clock)
    assert await failure_of(own.get_frozen_credentials()) is FailureClass.UNREACHABLE


async def test_own_credentials_that_sts_rejects_are_looked_for_anew(aws, clients, clock, build):
    chain = Chain(FOUND, NEWER)
    own = OwnCredentials(chain=chain, clock=clock)
    credentials = build(own=own)
    aws.script("AssumeRole", query_error("ExpiredToken"))
    await own.get_frozen_credentials()
    clock.seconds += 60
    assert await failure_of(frozen(credentials)) is FailureClass.CREDENTIALS_REJECTED
    clock.seconds += 4
    await frozen(credentials)
    assert [request.access_key for request in aws.requests] == ["FIRST", "SECOND"]


async def test_own_credentials_that_logs_rejects_are_looked_for_anew(clock, build):
    own = OwnCredentials(chain=Chain(FOUND, NEWER), clock=clock)
    credentials = build(own=own)
    own_account = AccountId(OWN_ACCOUNT)
    assert (await frozen(credentials, own_account)).access_key == "FIRST"
    clock.seconds += 60
    credentials.forget(own_account, own)
    assert (await frozen(credentials, own_account)).access_key == "SECOND"


async def test_a_pods_web_identity_becomes_our_own_credentials(aws, build, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("pod-token")
    set_own_environment(
        monkeypatch,
        AWS_ACCESS_KEY_ID=None,
        AWS_SECRET_ACCESS_KEY=None,
        AWS_ROLE_ARN="arn:aws:iam::999900001111:role/pod",
        AWS_WEB_IDENTITY_TOKEN_FILE=str(tmp_path / "token"),
        AWS_ENDPOINT_URL=aws.endpoint,
    )
    credentials = build()
    await asyncio.gather(frozen(credentials), frozen(credentials, OTHER))
    [identity] = aws.requests_of("AssumeRoleWithWebIdentity")
    assert identity.params["WebIdentityToken"] == "pod-token"
    assert [request.access_key for request in aws.requests_of("AssumeRole")] == ["ROLE999900001111N1"] * 2


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (query_error("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity", status=403), "missing"),
        (query_error("InvalidIdentityToken"), "missing"),
        (query_error("Throttling"), "unavailable"),
        (query_error("InternalFailure", status=500), "unavailable"),
    ],
)
async def test_a_web_identity_that_sts_refuses_has_a_class(aws, build, monkeypatch, tmp_path, answer, failure):
    (tmp_path / "token").write_text("pod-token")
    set_own_environment(
        monkeypatch,
        AWS_ACCESS_KEY_ID=None,
        AWS_SECRET_ACCESS_KEY=None,
        AWS_ROLE_ARN="arn:aws:iam::999900001111:role/pod",
        AWS_WEB_IDENTITY_TOKEN_FILE=str(tmp_path / "token"),
        AWS_ENDPOINT_URL=aws.endpoint,
        AWS_MAX_ATTEMPTS="1",
    )
    aws.script("AssumeRoleWithWebIdentity", *[answer] * 20)
    found = await failure_of(frozen(build(), AccountId(OWN_ACCOUNT)))
    expected = {"missing": FailureClass.CREDENTIALS_MISSING, "unavailable": FailureClass.SERVICE_UNAVAILABLE}
    assert found is expected[failure]


async def test_the_page_of_a_portal_does_not_pass_for_a_web_identity(aws, build, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("pod-token")
    set_own_environment(
        monkeypatch,
        AWS_ACCESS_KEY_ID=None,
        AWS_SECRET_ACCESS_KEY=None,
        AWS_ROLE_ARN="arn:aws:iam::999900001111:role/pod",
        AWS_WEB_IDENTITY_TOKEN_FILE=str(tmp_path / "token"),
        AWS_ENDPOINT_URL=aws.endpoint,
    )
    aws.script("AssumeRoleWithWebIdentity", Answer(200, b"<html><body>Sign in</body></html>", "text/html"))
    assert await failure_of(frozen(build(), AccountId(OWN_ACCOUNT))) is FailureClass.UNREACHABLE


async def test_a_web_identity_token_that_is_not_mounted_means_no_credentials(build, monkeypatch):
    set_own_environment(
        monkeypatch,
        AWS_ACCESS_KEY_ID=None,
        AWS_SECRET_ACCESS_KEY=None,
        AWS_ROLE_ARN="arn:aws:iam::999900001111:role/pod",
        AWS_WEB_IDENTITY_TOKEN_FILE="/nonexistent/token",
    )
    assert await failure_of(frozen(build())) is FailureClass.CREDENTIALS_MISSING


async def test_a_process_without_any_credentials_says_so(aws, build, monkeypatch):
    set_own_environment(monkeypatch, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    assert await failure_of(frozen(build())) is FailureClass.CREDENTIALS_MISSING
    assert aws.requests == []
