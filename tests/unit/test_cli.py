"""The command line: what people type, what they read, and the exit status."""

import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from service import cli

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
    runner = CliRunner()

    def run(*arguments):
        monkeypatch.setattr(cli, "_out", Console(width=200, file=(out := io.StringIO())))
        result = runner.invoke(cli.app, list(arguments))
        return result.exit_code, out.getvalue() + result.output, result.exception

    return run


def check(name, region="eu-west-1", *more):
    return "check", "--log-group", name, "--account", "111122223333", "--region", region, *more


def test_check_alone_validates(run):
    status, text, _ = run("check")
    assert (status, "has 1 tenants" in text) == (0, True)


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
        (("rekey", "acme", "--url", "http://127.0.0.1:9", "--wait"), "does not answer"),
        (("ensure", "arn:aws:s3:::bucket"), "log group ARN"),
        (("ensure", "--url", "http://127.0.0.1:9", "-a", "111122223333", "-r", "eu-west-1", "/a"), "does not answer"),
    ],
)
def test_a_mistake_is_a_sentence(run, arguments, says):
    _, _, error = run(*arguments)
    assert isinstance(error, cli.UsageError)
    assert says in str(error)


def test_topics_are_listed_with_their_settings(run):
    status, text, _ = run("topics", "list")
    assert status == 0
    assert "logwarden.work  48 partitions" in text
    assert "max.message.bytes=2097152" in text


def test_a_name_without_its_account_is_refused_before_anything_is_asked(run):
    _, _, error = run("ensure", "/app-a/x", "--region", "eu-west-1")
    assert isinstance(error, cli.UsageError)
    assert "--account" in str(error)


def test_an_address_that_is_none_is_refused_in_words(run):
    _, _, error = run("ensure", "/app-a/x", "-a", "111122223333", "-r", "eu-west-1", "--url", "http://[::1")
    assert isinstance(error, cli.UsageError)
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
