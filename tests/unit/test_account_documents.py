"""What the documents of several accounts share."""

import asyncio
import gc

import pytest

from service.domain.log_group import AccountId
from service.registry.document import AccountDocuments
from service.registry.source import SourceDataError

ACCOUNTS = [AccountId("111122223333"), AccountId("444455556666")]


def shared(count: int, key: str = "1") -> dict[str, object]:
    """Tenants that a shared rule on both accounts may name; the first has a rule of its own on one."""
    return {
        "version": 1,
        "shared_rules": [{"accounts": ACCOUNTS, "name_regex": "^/(?P<tenant>[a-z0-9-]+)/"}],
        "tenants": [
            {
                "id": f"t{number}",
                "keys": {"eu-west-1": f"arn:aws:kms:eu-west-1:111122223333:key/{key}"},
                "rules": [{"accounts": [f"{number:012}"]}],
            }
            for number in range(1, count + 1)
        ],
    }


@pytest.mark.parametrize("count", [2, 60])
async def test_accounts_with_one_document_share_its_rules_also_when_they_ask_at_once(count: int):
    documents = AccountDocuments()
    answers = await asyncio.gather(
        *(documents.answer(shared(count), account=account, known=None) for account in ACCOUNTS)
    )
    assert answers[0].rules is answers[1].rules
    assert [answer.is_listed for answer in answers] == [True, True]
    other = await documents.answer(shared(count, key="2"), account=ACCOUNTS[0], known=answers[0])
    assert other.rules is not answers[0].rules


async def test_an_account_is_listed_or_not_by_itself():
    documents = AccountDocuments()
    first = await documents.answer(shared(2), account=ACCOUNTS[0], known=None)
    second = await documents.answer(shared(2), account=AccountId("999900001111"), known=None)
    assert (first.is_listed, second.is_listed, second.rules is first.rules) == (True, False, True)


async def test_rules_that_no_answer_has_any_more_are_let_go():
    documents = AccountDocuments()
    await documents.answer(shared(60), account=ACCOUNTS[0], known=None)
    async with asyncio.timeout(5):  # the thread that made them lets go a moment later
        while documents._rules:
            gc.collect()
            await asyncio.sleep(0)


async def test_a_long_document_that_is_wrong_is_refused_to_each_that_asks():
    documents = AccountDocuments()
    wrong = shared(60) | {"match": "sometimes"}
    for answer in await asyncio.gather(
        *(documents.answer(wrong, account=account, known=None) for account in ACCOUNTS), return_exceptions=True
    ):
        assert isinstance(answer, SourceDataError)
