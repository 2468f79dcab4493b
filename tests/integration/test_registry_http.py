"""Tenants from an HTTP service: what counts as an answer, what never does, and the headers that are sent."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from aiohttp import web

from service.domain.log_group import AccountId
from service.registry.http import HttpSource
from service.registry.source import CannotListError, SourceDataError, SourceUnavailableError
from tests.support.registries import HttpScene, parsed

ACCOUNT = AccountId("111122223333")
TENANTS = """\
version: 1
tenants:
  - id: acme
    keys: {eu-west-1: "arn:aws:kms:eu-west-1:111122223333:key/1"}
    rules: [{accounts: ["111122223333"]}]
"""


@pytest.fixture
async def scene(tmp_path) -> AsyncIterator[HttpScene]:
    async with HttpScene.open() as scene:
        await scene.store(parsed(TENANTS, tmp_path))
        yield scene


@pytest.fixture
async def source(scene: HttpScene) -> AsyncIterator[HttpSource]:
    async with scene.source(timeout_s=10) as source:
        yield source


async def test_an_answer_that_has_not_changed_is_not_sent_again(scene, source):
    first = await source.on_account(ACCOUNT, None)
    assert first.is_listed
    again = await source.on_account(ACCOUNT, first)
    assert again is first
    assert scene.service.statuses == {200: 1, 304: 1}


async def test_a_service_without_etags_gives_the_same_answer_for_the_same_content(scene, source):
    scene.service.answers[f"accounts/{ACCOUNT}"] = lambda _: web.json_response(scene.service.documents[ACCOUNT])
    first = await source.on_account(ACCOUNT, None)
    again = await source.on_account(ACCOUNT, first)
    assert again.rules is first.rules


async def test_an_unasked_304_is_no_answer(scene, source):
    scene.service.answers[f"accounts/{ACCOUNT}"] = lambda _: web.Response(status=304)
    with pytest.raises(SourceUnavailableError, match="304"):
        await source.on_account(ACCOUNT, None)


async def test_a_404_that_names_the_account_means_that_nobody_lists_the_account(source):
    answer = await source.on_account(AccountId("999900001111"), None)
    assert not answer.is_listed


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: web.Response(status=404, text="default backend - 404"),
        lambda _: web.Response(status=404, text="<html>", content_type="text/html"),
        lambda _: web.json_response({"detail": "Not Found"}, status=404),
        lambda _: web.json_response({"account": "000000000000"}, status=404),
        lambda _: web.Response(status=500),
        lambda _: web.json_response({}, status=503),
        lambda _: web.json_response({}, status=401),
        lambda _: web.json_response({}, status=429),
        lambda _: web.Response(text="<html>sign in</html>", content_type="text/html"),
        lambda _: web.Response(status=204),
        lambda _: web.Response(status=302, headers={"Location": "/tenants/version"}),
        lambda _: web.Response(body=b"[" * (17 * 1024 * 1024), content_type="application/json"),
    ],
)
async def test_what_is_not_the_services_answer_is_none(scene, source, answer):
    scene.service.answers[f"accounts/{ACCOUNT}"] = answer
    with pytest.raises(SourceUnavailableError):
        await source.on_account(ACCOUNT, None)
    assert scene.service.statuses.total() == 1, "no redirect is followed, and nothing is tried twice"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "has to be a mapping"),
        ("null", "is empty"),
        ("{}", "version: is missing"),
        (json.dumps({"version": 2}), "version: has to be 1"),
        (json.dumps({"version": 1, "tenants": [{"id": "acme"}]}), r"tenants\[0\].keys: is missing"),
        (json.dumps({"version": 1, "default_tenant": "acme"}), "default_tenant: there is no tenant acme"),
    ],
)
async def test_a_document_that_is_wrong_is_refused_with_the_reason(scene, source, body, problem):
    scene.service.answers[f"accounts/{ACCOUNT}"] = lambda _: web.Response(text=body, content_type="application/json")
    with pytest.raises(SourceDataError, match=problem):
        await source.on_account(ACCOUNT, None)


async def test_the_token_is_read_for_each_request(scene, tmp_path):
    token_file = tmp_path / "token"
    token_file.write_text("first\n")
    async with scene.source(timeout_s=10, token_file=token_file) as source:
        await source.on_account(ACCOUNT, None)
        token_file.write_text("second\n")
        await source.on_account(ACCOUNT, None)
        assert scene.service.tokens == ["Bearer first", "Bearer second"]
        token_file.unlink()
        with pytest.raises(SourceUnavailableError, match="token file"):
            await source.on_account(ACCOUNT, None)


async def test_without_a_token_file_no_token_is_sent(scene, source):
    await source.on_account(ACCOUNT, None)
    assert scene.service.tokens == [None]


async def test_a_service_without_a_version_is_not_polled_for_it(scene, source):
    scene.service.version = None
    async with asyncio.timeout(20):
        await source.watch(lambda _: pytest.fail("nothing has changed"))
    assert source.version is None
    assert scene.service.statuses == {404: 1}


# -- the list of tenants


async def listed(source: HttpSource) -> list[object]:
    async with aclosing(source.tenants()) as pages:
        return [tenant["id"] async for page in pages for tenant in page.tenants]


async def test_a_service_without_a_list_says_so_by_404(scene, source):
    scene.service.everything = None
    with pytest.raises(CannotListError):
        await listed(source)


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ({"version": 1}, "no document with a list"),
        ([], "no document with a list"),
        ({"version": 1, "tenants": [], "next": "2"}, "leads nowhere"),
        ({"version": 1, "tenants": [{"id": "a"}], "next": 2}, "leads nowhere"),
    ],
)
async def test_a_page_that_is_none_is_refused(scene, source, page, reason):
    scene.service.answers["tenants"] = lambda _: web.json_response(page)
    with pytest.raises(SourceDataError, match=reason):
        await listed(source)


@pytest.mark.parametrize(
    "page",
    [
        lambda n: {"tenants": [{"id": "a"}], "next": "2"},
        lambda n: {"tenants": [{"id": f"t{n}"}], "next": "ab"[n % 2]},
        lambda n: {"tenants": [{"id": "a"}], "next": f"after-{n}"},
    ],
    ids=["after is not heeded", "a cursor in a circle", "no new tenant"],
)
async def test_pages_that_repeat_themselves_are_refused(scene, source, page):
    pages = itertools.count()
    scene.service.answers["tenants"] = lambda _: web.json_response({"version": 1} | page(next(pages)))
    with pytest.raises(SourceDataError, match="repeat themselves"):
        async with asyncio.timeout(5):
            await listed(source)
