"""Who is let in: the token file, and the guard in front of everything under /v1."""

import hashlib
import os
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from service.http.problems import ProblemError, ProblemType
from service.http.tokens import Scope, TokenFile, read_tokens
from tests.support.http import CALLER, TOKEN, side_port, token_file

OTHER_TOKEN = "fedcba9876543210"


def refusal(tokens: TokenFile, authorization: str | None) -> ProblemType:
    with pytest.raises(ProblemError) as raised:
        tokens.caller(authorization)
    return raised.value.problem


def test_each_line_is_a_token_with_or_without_a_name():
    callers, wrong = read_tokens(f"# comment\n\n  alice:{TOKEN}  \n{OTHER_TOKEN}\n")

    digest = hashlib.sha256(OTHER_TOKEN.encode()).hexdigest()
    assert sorted(each.name for each in callers.values()) == ["alice", f"token-{digest[:8]}"]
    assert {each.scopes for each in callers.values()} == {frozenset(Scope)}
    assert wrong == []


def test_a_third_field_says_what_a_token_may_do():
    callers, wrong = read_tokens(f"alice:{TOKEN}:read\nbob:{OTHER_TOKEN}:ensure, operate\n")
    assert {each.name: each.scopes for each in callers.values()} == {
        "alice": {Scope.READ},
        "bob": {Scope.ENSURE, Scope.OPERATE},
    }
    assert wrong == []


@pytest.mark.parametrize(
    ("wrong_line", "let_in"),
    [
        ("short", ["alice"]),
        ("bob:short", ["alice"]),
        (f"bob smith:{OTHER_TOKEN}", ["alice"]),
        (f":{OTHER_TOKEN}", ["alice"]),
        (f"{OTHER_TOKEN} # comment", ["alice"]),
        (f"bob:{TOKEN}", ["alice"]),
        ("<<<<<<< HEAD", ["alice"]),
        (f"bob:{OTHER_TOKEN}:", ["alice"]),
        (f"bob:{OTHER_TOKEN}:read,everything", ["alice"]),
        (f"bob:{OTHER_TOKEN}:READ", ["alice"]),
        (f"bob:{OTHER_TOKEN}:read:ensure", ["alice"]),
        (f"{OTHER_TOKEN}:read", ["alice"]),
    ],
)
def test_a_wrong_line_is_named_without_showing_it_and_takes_nobody_elses_token_away(wrong_line, let_in):
    callers, [wrong] = read_tokens(f"alice:{TOKEN}\n\n{wrong_line}\n")
    assert [each.name for each in callers.values()] == let_in
    assert wrong.startswith("line 3 ")
    assert TOKEN not in wrong
    assert OTHER_TOKEN not in wrong


def test_a_caller_is_known_by_the_token(tmp_path):
    tokens = TokenFile(token_file(tmp_path))

    assert tokens.caller(f"Bearer {TOKEN}") == CALLER
    assert tokens.caller(f"bearer  {TOKEN}") == CALLER


@pytest.mark.parametrize(
    ("authorization", "problem"),
    [
        (None, ProblemType.TOKEN_MISSING),
        ("", ProblemType.TOKEN_MISSING),
        (TOKEN, ProblemType.TOKEN_MISSING),
        ("Bearer ", ProblemType.TOKEN_MISSING),
        (f"Basic {TOKEN}", ProblemType.TOKEN_MISSING),
        (f"Bearer {TOKEN[:-1]}", ProblemType.TOKEN_REFUSED),
        (f"Bearer {TOKEN}0", ProblemType.TOKEN_REFUSED),
        (f"Bearer {CALLER}:{TOKEN}", ProblemType.TOKEN_REFUSED),
        ("Bearer é", ProblemType.TOKEN_REFUSED),
    ],
)
def test_anybody_else_is_refused(tmp_path, authorization, problem):
    assert refusal(TokenFile(token_file(tmp_path)), authorization) is problem


def test_without_a_file_nobody_is_let_in():
    assert refusal(TokenFile(None), f"Bearer {TOKEN}") is ProblemType.CLOSED


def test_a_token_that_is_taken_out_is_refused_at_once_and_a_new_one_accepted(tmp_path):
    path = token_file(tmp_path)
    tokens = TokenFile(path)
    tokens.caller(f"Bearer {TOKEN}")
    path.write_text(f"bob:{OTHER_TOKEN}\n")

    assert refusal(tokens, f"Bearer {TOKEN}") is ProblemType.TOKEN_REFUSED
    assert tokens.caller(f"Bearer {OTHER_TOKEN}") == "bob"


def test_a_file_that_is_swapped_for_one_of_the_same_size_and_time_is_read_again(tmp_path):
    path = token_file(tmp_path)
    before = path.stat()
    tokens = TokenFile(path)
    tokens.caller(f"Bearer {TOKEN}")
    other = tmp_path / "other"
    other.write_text(path.read_text().replace(TOKEN, TOKEN[::-1]))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)

    assert refusal(tokens, f"Bearer {TOKEN}") is ProblemType.TOKEN_REFUSED


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "no token"), ("# only a comment\n", "no token"), ("short\n", "line 1"), ("alice:é", "line 1")],
)
def test_a_file_that_loses_its_last_token_lets_nobody_in_says_so_once_and_recovers(tmp_path, text, reason):
    path = token_file(tmp_path)
    tokens = TokenFile(path)
    tokens.caller(f"Bearer {TOKEN}")
    assert tokens.problem is None
    path.write_text(text)

    with capture_logs() as logs:
        assert refusal(tokens, f"Bearer {TOKEN}") is ProblemType.TOKENS_UNUSABLE
        assert refusal(tokens, f"Bearer {TOKEN}") is ProblemType.TOKENS_UNUSABLE
    [complaint] = [entry for entry in logs if entry["log_level"] == "error"]
    assert complaint["event"] == "api_tokens_unusable"
    assert reason in complaint["reason"]
    assert tokens.problem == complaint["reason"]

    token_file(tmp_path)
    assert tokens.problem is None, "a scrape finds it mended before anybody calls"
    assert tokens.caller(f"Bearer {TOKEN}") == CALLER


def test_a_token_that_is_taken_out_is_refused_at_once_whatever_else_is_wrong_with_the_file(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"alice:{TOKEN}\nbob:{OTHER_TOKEN}\n")
    tokens = TokenFile(path)
    assert tokens.caller(f"Bearer {TOKEN}") == "alice"
    path.write_text(f"oops\nbob:{OTHER_TOKEN}\n")

    with capture_logs() as logs:
        assert refusal(tokens, f"Bearer {TOKEN}") is ProblemType.TOKEN_REFUSED
        assert tokens.caller(f"Bearer {OTHER_TOKEN}") == "bob"
    [complaint] = [entry for entry in logs if entry["event"] == "api_tokens_unusable"]
    assert (complaint["reason"][:6], complaint["in_force"]) == ("line 1", 1)
    assert tokens.problem == complaint["reason"]


def test_a_file_that_cannot_be_read_takes_nobodys_token_away_and_one_that_is_gone_takes_all(tmp_path):
    path = token_file(tmp_path)
    tokens = TokenFile(path)
    tokens.caller(f"Bearer {TOKEN}")
    path.unlink()
    path.mkdir()
    unreadable = tokens.problem
    assert unreadable is not None
    assert tokens.caller(f"Bearer {TOKEN}") == CALLER

    path.rmdir()
    assert refusal(tokens, f"Bearer {TOKEN}") is ProblemType.CLOSED
    assert tokens.problem is None
    path.mkdir()
    assert refusal(tokens, f"Bearer {TOKEN}") is ProblemType.TOKENS_UNUSABLE, "nothing is remembered past that"


async def test_everything_under_v1_is_guarded_and_nothing_else(tmp_path):
    async with side_port(token_file(tmp_path), headers=()) as port:
        guarded = ["/v1", "/v1/", "/v1/requests", "/v1/requests/x", "/v1/not-there", "/v1%2Frequests"]
        assert {(await port.client.get(path)).status_code for path in guarded} == {401}
        assert (await port.client.post("/v1/requests", content=b"not json")).status_code == 401
        free = ["/", "/docs", "/openapi.json", "/livez", "/readyz", "/metrics"]
        assert {(await port.client.get(path)).status_code for path in free} == {200}


async def test_a_stranger_is_told_how_to_be_let_in(tmp_path):
    async with side_port(token_file(tmp_path), headers=()) as port:
        missing = await port.client.get("/v1/requests/x")
        wrong = await port.client.get("/v1/requests/x", headers={"Authorization": "Bearer nonsense"})

    assert missing.headers["WWW-Authenticate"] == 'Bearer realm="logwarden"'
    assert missing.json()["type"] == "/docs#token-missing"
    assert wrong.headers["WWW-Authenticate"] == 'Bearer realm="logwarden", error="invalid_token"'
    assert wrong.json()["type"] == "/docs#token-refused"


async def test_a_closed_trigger_says_which_setting_opens_it():
    async with side_port(None) as port:
        response = await port.client.post("/v1/requests", json={})

    assert response.status_code == 403
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "LOGWARDEN_API_TOKEN_FILE" in response.json()["detail"]


async def test_a_token_file_that_nobody_has_made_keeps_the_trigger_closed(tmp_path):
    async with side_port(tmp_path / "absent") as port:
        response = await port.client.get("/v1/requests/x")

    assert response.status_code == 403
    assert response.json()["type"] == "/docs#closed"


async def test_an_unusable_token_file_is_the_services_fault(tmp_path):
    (tmp_path / "tokens").write_text("short")
    async with side_port(tmp_path / "tokens") as port:
        response = await port.client.get("/v1/requests/x")

    assert response.status_code == 503
    assert response.headers["Retry-After"] == "60"
    assert response.json()["type"] == "/docs#tokens-unusable"
    assert str(tmp_path) not in response.text


async def test_a_refusal_is_logged_without_the_token(tmp_path):
    async with side_port(token_file(tmp_path), headers=()) as port:
        with capture_logs() as logs:
            await port.client.get("/v1/requests/x", headers={"Authorization": f"Bearer {OTHER_TOKEN}"})

    refused = [entry for entry in logs if entry["event"] == "http_refused"]
    assert [(entry["reason"], entry["path"]) for entry in refused] == [("token-refused", "/v1/requests/x")]
    assert OTHER_TOKEN not in str(logs)
    assert TOKEN not in str(logs)


async def test_no_body_is_read_for_a_stranger(tmp_path):
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        pytest.fail("the body was read on")

    async with side_port(token_file(tmp_path), headers=()) as port:
        headers = {"Content-Type": "application/json"}
        response = await port.client.post("/v1/requests", content=body(), headers=headers)
    assert response.status_code == 401


@pytest.mark.parametrize("scopes", ["read", "ensure", "operate", "read,ensure"])
async def test_a_token_may_do_what_its_scopes_say_and_is_told_which_is_missing(tmp_path, scopes):
    path = tmp_path / "tokens"
    path.write_text(f"{CALLER}:{TOKEN}:{scopes}\n")
    calls = {
        "read": [("GET", "/v1/status"), ("GET", "/v1/lanes"), ("GET", "/v1/pause"), ("GET", "/v1/requests/x")],
        "ensure": [("POST", "/v1/requests"), ("POST", "/v1/events")],
        "operate": [("POST", "/v1/sweeps"), ("PUT", "/v1/pause"), ("DELETE", "/v1/pause"), ("POST", "/v1/whatever")],
    }
    async with side_port(path) as port:
        for scope, [*each] in calls.items():
            for method, url in each:
                response = await port.client.request(method, url)
                if scope in scopes:
                    assert response.status_code != 403, (method, url)
                else:
                    assert (response.status_code, response.json()["type"]) == (403, "/docs#scope-missing")
                    assert f"the scope {scope}; the token of {CALLER} has" in response.json()["detail"]


async def test_openapi_says_the_scope_that_each_call_needs():
    async with side_port(None) as port:
        paths = (await port.client.get("/openapi.json")).json()["paths"]
    scopes = {
        (method, path): requirement
        for path, operations in paths.items()
        for method, operation in operations.items()
        for requirement in operation.get("security", ())
    }
    assert {path for _, path in scopes} == {path for path in paths if path.startswith("/v1/")}
    assert scopes["post", "/v1/requests"] == scopes["post", "/v1/events"] == {"token": ["ensure"]}
    assert (
        scopes["put", "/v1/pause"]
        == scopes["delete", "/v1/pause"]
        == scopes["post", "/v1/sweeps"]
        == {"token": ["operate"]}
    )
    assert scopes["get", "/v1/requests/{request_id}"] == scopes["get", "/v1/status"] == {"token": ["read"]}
