"""`logwarden pause` and `logwarden resume`, as they are typed."""

import pytest
from typer.testing import CliRunner

from service import cli
from service.cli.console import UsageError
from tests.support.rest_service import rest_service

TOKEN = "0123456789abcdef0123456789abcdef"


def run(*arguments):
    result = CliRunner().invoke(cli.app, list(arguments))
    return result.exit_code, result.exception


@pytest.fixture
def token(tmp_path):
    (tmp_path / "token").write_text(f"alice:{TOKEN}\n")
    return str(tmp_path / "token")


def test_over_rest_a_pause_is_a_put_and_a_resume_a_delete(token):
    with rest_service((200, {"paused": True})) as (url, asked):
        assert run("pause", "--reason", "a break", "--url", url, "--token-file", token)[0] == 0
        assert run("resume", "--url", url, "--token-file", token)[0] == 0
        assert run("resume", "--force", "--url", url, "--token-file", token)[0] == 0
    assert asked == [
        ("PUT", "/v1/pause", f"Bearer {TOKEN}", None, {"reason": "a break"}),
        ("DELETE", "/v1/pause", f"Bearer {TOKEN}", None, None),
        ("DELETE", "/v1/pause?force=true", f"Bearer {TOKEN}", None, None),
    ]


def test_a_refusal_is_a_sentence(token):
    problem = {
        "title": "The request is not valid",
        "detail": "Mend it.",
        "errors": [{"detail": "a reason is required", "pointer": "#/reason"}],
    }
    with rest_service((400, problem)) as (url, _):
        _, error = run("pause", "--reason", " ", "--url", url, "--token-file", token)
    assert isinstance(error, UsageError)
    assert str(error) == "400: The request is not valid. Mend it.\n  #/reason: a reason is required"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pause", "--reason", " "), "a reason is required"),
        (("pause", "--reason", "x" * 501), "at most 500"),
        (("resume", "--url", "http://127.0.0.1:9"), "does not answer"),
        (("resume",), "127.0.0.1:9 does not answer"),
        (("resume",), "Nothing was written."),
        (("resume", "--token-file", __file__), "--token-file is for the service at --url"),
    ],
)
def test_a_mistake_is_a_sentence(monkeypatch, arguments, says):
    monkeypatch.setenv("LOGWARDEN_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    monkeypatch.setenv("LOGWARDEN_TOKEN", TOKEN)
    _, error = run(*arguments)
    assert isinstance(error, UsageError)
    assert says in str(error)


def test_a_pause_without_a_reason_is_refused():
    assert run("pause")[0] == 2
