"""The command line: what people type, what they read, and the exit status."""

import io
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from rich.console import Console
from typer.testing import CliRunner

from service import cli
from service.cli import console
from service.cli.console import UsageError
from service.domain.command import Origin
from service.domain.replay import DeadLetter, Selection
from service.remote import dead_letters
from service.remote import ensure as ensure_command
from service.remote import sweep as sweep_command
from service.settings import Settings
from service.stream import comparison, topics
from service.stream.existing import ExistingTopic
from tests.support.publisher import FakePublisher
from tests.support.rest_service import rest_service

TOKEN = "0123456789abcdef0123456789abcdef"
ARN = "arn:aws:logs:eu-west-1:111122223333:log-group:/app-a/x"
URL = ("--url", "http://127.0.0.1:9")
TENANTS = """
version: 1
exclude:
  - names: ["/scratch/*"]
    reason: "see [/wiki] for why"
tenants:
  - id: acme
    keys: {eu-west-1: "arn:aws:kms:eu-west-1:111122223333:key/0a1b2c3d-1111-2222-3333-444455556666"}
    rules: [{accounts: ["111122223333"], names: ["/app-[ab]/*"]}]
    overwrite: OVERWRITE
"""


@pytest.fixture
def run(monkeypatch, tmp_path):
    (tmp_path / "tenants.yaml").write_text(TENANTS.replace("OVERWRITE", "always"))
    monkeypatch.setenv("LOGWARDEN_TENANTS_FILE", str(tmp_path / "tenants.yaml"))
    monkeypatch.setenv("LOGWARDEN_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    monkeypatch.setenv("LOGWARDEN_TOKEN", TOKEN)
    runner = CliRunner()

    def run(*arguments):
        monkeypatch.setattr(console, "out", Console(width=200, file=(out := io.StringIO())))
        result = runner.invoke(cli.app, list(arguments))
        return result.exit_code, out.getvalue() + result.output, result.exception

    return run


def check(name, region="eu-west-1", *more):
    return "check", "--log-group", name, "--account", "111122223333", "--region", region, *more


def test_check_alone_validates(run):
    status, text, _ = run("check")
    assert (status, "has 1 tenants" in text) == (0, True)


def test_check_warns_of_regions_that_a_rule_names_and_the_tenant_has_no_key_in(run, tmp_path):
    file = tmp_path / "tenants.yaml"
    file.write_text(file.read_text().replace('names: ["/app', 'regions: [us-east-1, eu-west-1], names: ["/app'))
    status, text, _ = run("check")
    assert (status, "rule 1 of acme names us-east-1, where acme has no key" in text) == (0, True)


def test_check_says_under_which_key_and_by_which_rule(run):
    status, text, _ = run(*check("/app-a/x"))
    assert status == 0
    assert "key/0a1b2c3d-1111-2222-3333-444455556666" in text
    assert "rule 1 of acme" in text


@pytest.mark.parametrize(
    ("overwrite", "says"),
    [
        ("when-no-key", "Only if it has no key yet: the tenant's overwrite policy is when-no-key."),
        ("never", "But nothing is done: the tenant's overwrite policy is never."),
    ],
)
def test_check_says_what_the_tenant_does_not_let_be_overwritten(run, tmp_path, overwrite, says):
    (tmp_path / "tenants.yaml").write_text(TENANTS.replace("OVERWRITE", overwrite))
    status, text, _ = run(*check("/app-a/x"))
    assert (status, says in text) == (0, True)


def test_check_shows_patterns_and_reasons_as_they_are_written(run):
    status, text, _ = run(*check("/scratch/x"))
    assert status == 0
    assert "is left alone" in text
    assert "see [/wiki] for why" in text
    assert "/app-[ab]/*" in text


def test_check_ends_with_1_where_no_key_would_be_used(run):
    status, text, _ = run(*check("/app-a/x", "us-east-1"))
    assert (status, "no-key-in-region" in text) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("check", "--log-group", "/a b", "--account", "111122223333", "--region", "eu-west-1"), "log_group"),
        (("check", "--log-group", "/a", "--account", "1", "--region", "eu-west-1"), "12 digits"),
        (check("/a", "eu-west-1", "--tag", "novalue"), "KEY=VALUE"),
        (("ensure", "/a"), "account"),
        (("sweep", "--account", "1"), "12 digits"),
        (("rekey", "acme", "--region", "europe"), "Region"),
        (("rekey", "acme", *URL, "--wait", "60"), "does not answer"),
        (("sweep",), "127.0.0.1:9 does not answer. Nothing was written."),
        (("ensure", ARN), "127.0.0.1:9 does not answer. Nothing was written."),
        (("ensure", ARN, "--account", "111122223333"), "--account and --region are for names"),
        (("ensure", ARN, "--wait", "5"), "--wait needs --url"),
        (("ensure", ARN, "--token-file", __file__), "--token-file is for the service at --url"),
        (("sweep", "--token-file", __file__), "--token-file is for the service at --url"),
        (("check", "--log-group", "/acme/x"), "A name needs --account and --region"),
        (("check", "--log-group", ""), "A name needs --account and --region"),
        (("check", "--log-group", ARN, "--region", "us-east-1"), "--account and --region are for names"),
        (("check", "--account", "111122223333"), "name it with --log-group"),
        (("check", "--tag", "a=b"), "name it with --log-group"),
        (("check", "--header", "a=b"), "name its file with --event"),
        (("ensure", "arn:aws:s3:::bucket"), "log group ARN"),
        (("ensure", *URL, "-a", "111122223333", "-r", "eu-west-1", "/a"), "does not answer"),
    ],
)
def test_a_mistake_is_a_sentence(run, arguments, says):
    _, _, error = run(*arguments)
    assert isinstance(error, UsageError)
    assert says in str(error)


def test_topics_are_listed_with_their_settings(run):
    status, text, _ = run("topics", "list", "--offline")
    assert status == 0
    assert "logwarden.work          partitions=48  replicas=3" in text
    assert all("min.insync.replicas=2" in line for line in text.splitlines() if line)
    assert "max.message.bytes=2097152" in text


@pytest.mark.parametrize(
    ("replication", "says"), [("-1", "replicas=the broker's default"), ("1", " replicas=1"), ("2", " replicas=2")]
)
def test_of_fewer_than_three_replicas_a_write_needs_what_the_broker_says(run, monkeypatch, replication, says):
    monkeypatch.setenv("LOGWARDEN_TOPIC_REPLICATION", replication)
    _, text, _ = run("topics", "list", "--offline")
    assert says in text
    assert all("min.insync.replicas=the broker's default" in line for line in text.splitlines() if line)


@pytest.mark.parametrize(("missing", "status"), [(None, 0), ("logwarden.events", 1), ("logwarden.work", 1)])
def test_topics_that_are_there_are_shown_beside_what_is_wanted(run, monkeypatch, missing, status):
    async def existing(_arguments, names, _configs):
        wanted = {spec.name: spec for spec in topics.topic_specs(Settings())}
        return [
            ExistingTopic(name=name, partitions=min(9, wanted[name].partitions), replicas=3, config=wanted[name].config)
            for name in names
            if name != missing
        ]

    monkeypatch.setattr(comparison, "existing_topics", existing)
    ended, text, _ = run("topics", "list")
    assert ended == status
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert lines["logwarden.retry.1"].split(None, 2)[1:] == [
        "differs",
        "partitions=9 (wanted 12)  replicas=3  min.insync.replicas=2  cleanup.policy=delete  retention.ms=1209600000",
    ]
    if missing is not None:
        assert lines[missing].split()[1] == "missing"


def test_a_weak_topic_is_an_exit_status_and_a_sentence_that_says_what_to_do(run, monkeypatch):
    async def existing(_arguments, names, _configs):
        return [ExistingTopic(name=name, partitions=12, replicas=1, config={}) for name in names]

    monkeypatch.setattr(comparison, "existing_topics", existing)
    status, text, _ = run("topics", "list")
    assert status == 1
    assert "logwarden.work          weak       partitions=12 (wanted 48)  replicas=1 (wanted 3)" in text
    assert "give each 3 replicas" in text


def test_topics_are_not_listed_without_a_broker(run):
    _, _, error = run("topics", "list")
    assert isinstance(error, UsageError)
    assert str(error).startswith("127.0.0.1:9: ")


def test_a_name_without_its_account_is_refused_before_anything_is_asked(run):
    _, _, error = run("ensure", "/app-a/x", "--region", "eu-west-1")
    assert isinstance(error, UsageError)
    assert "--account" in str(error)


def test_an_address_that_is_none_is_refused_in_words(run):
    _, _, error = run("ensure", "/app-a/x", "-a", "111122223333", "-r", "eu-west-1", "--url", "http://[::1")
    assert isinstance(error, UsageError)
    assert "http://[::1" in str(error)


def test_registry_commands_need_a_registry(run, tmp_path):
    _, _, problem = run("registry", "load", str(tmp_path / "tenants.yaml"))
    assert "LOGWARDEN_REGISTRY is not set" in str(problem)
    _, _, problem = run("registry", "migrate")
    assert "LOGWARDEN_REGISTRY is not set" in str(problem)


def test_check_asks_the_registry_where_there_is_one(run, monkeypatch):
    monkeypatch.setenv("LOGWARDEN_REGISTRY", "http://127.0.0.1:1/tenants")
    status, text, _ = run("check")
    assert (status, "Name a log group" in text) == (0, True)
    _, _, problem = run(*check("/app-a/x"))
    assert "http://127.0.0.1:1/tenants: GET accounts/111122223333" in str(problem)


# -- check


def test_check_takes_an_arn(run):
    by_name, by_arn = run(*check("/app-a/x")), run("check", "--log-group", ARN)
    assert by_arn[:2] == by_name[:2]


def test_check_says_of_a_dry_run_that_nothing_is_called(run, monkeypatch):
    monkeypatch.setenv("LOGWARDEN_DRY_RUN", "true")
    status, text, _ = run("check", "--log-group", ARN)
    assert status == 0
    assert "would go under arn:aws:kms" in text
    assert "by rule 1 of acme (dry run: nothing is called)." in text


CREATED = '{"type": "log-group-created", "account": "111122223333", "region": "eu-west-1", "log_group": "NAME"}'


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (CREATED.replace("NAME", "/app-a/x"), 0),
        (CREATED.replace("NAME", "/scratch/x"), 0),
        (CREATED.replace("NAME", "/nobodys/x"), 1),
        (CREATED.replace("NAME", "/app-a/x y"), 1),
        ('{"Records": [{"eventSource": "s3.amazonaws.com", "eventName": "PutObject"}]}', 0),
        ("not json", 1),
        ("[]", 1),
    ],
)
def test_check_ends_with_1_where_an_event_would_become_a_dead_letter(run, tmp_path, event, status):
    (tmp_path / "event").write_text(event)
    assert run("check", "--event", str(tmp_path / "event"))[0] == status


# -- tokens


@pytest.mark.parametrize(
    "text", ["", "# nobody yet\n", "alice: \n", "short\n", f"alice:{TOKEN}\nbob {TOKEN}\n", "é" * 20]
)
@pytest.mark.parametrize("command", [("ensure", ARN), ("sweep",), ("resume",)])
def test_a_token_file_that_holds_no_tokens_is_said_and_not_shown(run, tmp_path, command, text):
    (tmp_path / "token").write_text(text)
    _, _, error = run(*command, *URL, "--token-file", str(tmp_path / "token"))
    assert isinstance(error, UsageError)
    assert str(tmp_path / "token") in str(error)
    assert TOKEN not in str(error)
    assert "does not answer" not in str(error)


@pytest.mark.parametrize("token", [None, "", " "])
def test_without_a_token_it_says_how_to_give_one(run, monkeypatch, token):
    monkeypatch.delenv("LOGWARDEN_TOKEN") if token is None else monkeypatch.setenv("LOGWARDEN_TOKEN", token)
    _, _, error = run("ensure", ARN, *URL)
    assert isinstance(error, UsageError)
    assert str(error) == "No token: use --token-file or LOGWARDEN_TOKEN."


def test_a_variable_that_is_no_token_is_named_and_not_shown(run, monkeypatch):
    monkeypatch.setenv("LOGWARDEN_TOKEN", "swordfish and chips\n")
    _, _, error = run("ensure", ARN, *URL)
    assert isinstance(error, UsageError)
    assert "LOGWARDEN_TOKEN: line 1" in str(error)
    assert "swordfish" not in str(error)


def test_the_first_token_of_a_file_is_sent(run, tmp_path):
    (tmp_path / "token").write_text(f"# ours\nalice:{TOKEN}\nbob:{TOKEN[::-1]}\n")
    with rest_service((200, {"paused": False})) as (url, asked):
        status, _, _ = run("resume", "--url", url, "--token-file", str(tmp_path / "token"))
    assert status == 0
    assert asked == [("DELETE", "/v1/pause", f"Bearer {TOKEN}", None, None)]


# -- ensure over Kafka


def test_where_kafka_does_not_acknowledge_some_commands_may_be_written(run, monkeypatch):
    (publisher := FakePublisher()).stall("logwarden.work")

    @asynccontextmanager
    async def reached(*arguments):
        yield publisher

    monkeypatch.setattr(ensure_command, "reached", reached)
    monkeypatch.setattr(ensure_command, "PATIENCE_S", 0.01)
    _, _, error = run("ensure", ARN)
    assert isinstance(error, UsageError)
    assert str(error) == "127.0.0.1:9 does not acknowledge; some commands may be written"


# -- ensure over REST


def request(state, **fields):
    group = {"account": "111122223333", "region": "eu-west-1", "log_group": "/app-a/x", "state": state, **fields}
    return {"id": "req-1", "state": "pending" if state in {"pending", "deferred"} else "done", "log_groups": [group]}


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(ensure_command, "_BETWEEN_S", 0.0)


def test_ensure_asks_again_until_there_is_a_last_word(run, impatient):
    answers = (
        (202, request("pending")),
        (200, request("deferred", retry_in_s=5)),
        (503, {"title": "starting"}),
        (200, request("sealed")),
    )
    with rest_service(*answers) as (url, asked):
        status, text, _ = run("ensure", ARN, "--url", url, "--wait", "60")
    assert (status, '"state": "sealed"' in text) == (0, True)
    assert [(method, path) for method, path, *_ in asked] == [
        ("POST", "/v1/requests"),
        *[("GET", "/v1/requests/req-1")] * 3,
    ]
    assert {prefer for *_, prefer, _ in asked} == {"wait=20"}


@pytest.mark.parametrize("state", ["failed", "deferred"])
def test_ensure_ends_with_1_where_a_log_group_is_not_right_in_time(run, impatient, state):
    with rest_service((202, request(state, retry_in_s=61))) as (url, asked):
        status, _, _ = run("ensure", ARN, "--url", url, "--wait", "60")
    assert (status, len(asked)) == (1, 1)


def test_ensure_that_does_not_wait_is_right_when_it_is_accepted(run):
    with rest_service((202, request("pending"))) as (url, asked):
        status, _, _ = run("ensure", ARN, "--url", url, "--wait", "0")
    assert (status, [prefer for *_, prefer, _ in asked]) == (0, [None])


def test_a_refusal_says_all_that_is_wrong(run):
    problem = {
        "title": "The request is not valid",
        "detail": "Mend it.",
        "errors": [{"detail": "not this", "pointer": "#/log_groups/0"}, {"detail": "nor that"}],
    }
    with rest_service((400, problem)) as (url, _):
        _, _, error = run("ensure", ARN, "--url", url)
        assert str(error) == "400: The request is not valid. Mend it.\n  #/log_groups/0: not this\n  nor that"
        _, _, error = run("sweep", "--url", url)
        assert str(error).endswith("nor that")


def test_something_else_at_the_address_is_said(run):
    with rest_service((200, ["hello"])) as (url, _):
        _, _, error = run("ensure", ARN, "--url", url)
    assert "something that is not from this service" in str(error)


# -- sweep over REST


def sweep(state, pending):
    return {"id": "swp-1", "state": state, "counts": {}, "lanes": {"total": 2, "pending": pending, "failed": 0}}


def test_a_sweep_that_is_not_done_in_time_ends_with_1_and_goes_on(run, monkeypatch):
    monkeypatch.setattr(sweep_command, "_BETWEEN_S", 0.05)
    with rest_service((202, sweep("pending", 2)), (200, sweep("pending", 1))) as (url, asked):
        status, text, _ = run("sweep", "--url", url, "--wait", "1")
    assert (status, '"pending": 1' in text) == (1, True)
    assert asked[0][-1] == {"accounts": None, "regions": None, "tenant": None}
    with rest_service((202, sweep("pending", 2)), (503, {}), (200, sweep("done", 0))) as (url, asked):
        status, _, _ = run("sweep", "--url", url, "--wait", "60")
    assert (status, len(asked)) == (0, 3)


# -- topics


def test_a_kafka_without_a_controller_is_a_sentence(run, monkeypatch):
    async def create_topics(*arguments, **options):
        raise topics.NoControllerError

    monkeypatch.setattr(topics, "create_topics", create_topics)
    _, _, error = run("topics", "create")
    assert isinstance(error, UsageError)
    assert str(error).startswith("127.0.0.1:9: the cluster names no controller")


# -- dead letters

LETTER = DeadLetter.of(
    Origin("dead-letters", 2, 7),
    1_750_000_000_000,
    b"111122223333:eu-west-1",
    b"{}",
    [
        *(("logwarden-class", b"unknown-tenant"), ("logwarden-fault", b"platform"), ("logwarden-reason", b"[no] rule")),
        *(("logwarden-source", b"events/3/42"), ("logwarden-original-topic", b"work")),
    ],
)


def test_dead_letters_are_shown_with_what_became_of_them_and_where_they_were(run, monkeypatch):
    async def list_letters(settings, selection, *, limit):
        assert (selection, limit) == (Selection(accounts=[]), 50)
        return dead_letters.Listed(Counter({"unknown-tenant": 3, "": 1}), [LETTER])

    monkeypatch.setattr(dead_letters, "list_letters", list_letters)
    status, text, _ = run("dead-letters", "list")
    assert (status, text.splitlines()) == (
        0,
        [
            "2025-06-15T15:06:40+00:00  unknown-tenant (platform)  2 bytes",
            "  [no] rule",
            "  2/7 of dead-letters, came from events/3/42, goes to work",
            "3 unknown-tenant",
            "1 of no class: not of this service",
            "4 dead letters, of which 1 are shown.",
        ],
    )


def test_a_replay_says_how_many_went_where_and_which_are_left(run, monkeypatch):
    asked = []

    async def replay(settings, selection, *, limit, is_dry_run):
        asked.append((selection, limit, is_dry_run))
        left = [(Origin("dead-letters", 2, 7), "it is too large")] if limit else []
        return dead_letters.Replayed(Counter({("unknown-tenant", "work"): 3}), left)

    monkeypatch.setattr(dead_letters, "replay", replay)
    monkeypatch.setattr("time.time", lambda: 1000.0)
    conditions = ("--class", "unknown-tenant", "--account", "111122223333", "--since", "10m", "--letter", "2/7")
    status, text, _ = run("dead-letters", "replay", *conditions, "--limit", "4")
    assert (status, "3 unknown-tenant went to work" in text) == (1, True)
    assert "dead-letters/2/7 is left: it is too large" in text
    assert "3 replayed, 1 left." in text
    status, text, _ = run("dead-letters", "replay", "--dry-run", "--since", "1970-01-01T00:01Z")
    assert (status, "3 unknown-tenant would go to work" in text) == (0, True)
    selection = Selection(failures=["unknown-tenant"], accounts=["111122223333"], places=["2/7"], since_ms=400_000)
    assert asked == [(selection, 4, False), (Selection(accounts=[], since_ms=60_000), None, True)]


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("--class", "unknown", "has to be one of account-not-listed, "),
        ("--account", "1111", "an account id of 12 digits"),
        ("--since", "yesterday", "neither 90m, 2h or 3d ago nor a time"),
        ("--letter", "events/2/7", "has to be PARTITION/OFFSET"),
    ],
)
def test_conditions_that_cannot_be_met_are_refused(run, option, text, says):
    _, _, error = run("dead-letters", "replay", option, text)
    assert isinstance(error, UsageError)
    assert says in str(error)
