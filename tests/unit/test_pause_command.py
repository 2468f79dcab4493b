"""`logwarden pause` and `logwarden resume`, as they are typed."""

import http.server
import json
import threading
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from service import cli

TOKEN = "0123456789abcdef0123456789abcdef"


@contextmanager
def service(status, answer):
    """A side-port that answers one thing and remembers what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.command, self.path, self.headers["Authorization"], json.loads(body or b"null")))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_PUT = do_DELETE = answer  # noqa: N815  http.server looks for these

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def run(*arguments):
    result = CliRunner().invoke(cli.app, list(arguments))
    return result.exit_code, result.exception


@pytest.fixture
def token(tmp_path):
    (tmp_path / "token").write_text(f"alice:{TOKEN}\n")
    return str(tmp_path / "token")


def test_over_rest_a_pause_is_a_put_and_a_resume_a_delete(token):
    with service(200, {"paused": True}) as (url, asked):
        assert run("pause", "--reason", "a break", "--url", url, "--token-file", token)[0] == 0
        assert run("resume", "--url", url, "--token-file", token)[0] == 0
    assert asked == [
        ("PUT", "/v1/pause", f"Bearer {TOKEN}", {"reason": "a break"}),
        ("DELETE", "/v1/pause", f"Bearer {TOKEN}", None),
    ]


def test_a_refusal_is_a_sentence(token):
    problem = {
        "title": "The request is not valid",
        "detail": "Mend it.",
        "errors": [{"detail": "a reason is required"}],
    }
    with service(400, problem) as (url, _):
        _, error = run("pause", "--reason", " ", "--url", url, "--token-file", token)
    assert isinstance(error, cli.UsageError)
    assert str(error) == "400: The request is not valid. Mend it. a reason is required"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pause", "--reason", " "), "a reason is required"),
        (("pause", "--reason", "x" * 501), "at most 500"),
        (("resume", "--url", "http://127.0.0.1:9"), "does not answer"),
        (("resume",), "127.0.0.1:9"),
    ],
)
def test_a_mistake_is_a_sentence(monkeypatch, arguments, says):
    monkeypatch.setenv("LOGWARDEN_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    _, error = run(*arguments)
    assert isinstance(error, cli.UsageError)
    assert says in str(error)


def test_a_pause_without_a_reason_is_refused():
    assert run("pause")[0] == 2
