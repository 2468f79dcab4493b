"""For any tenant file: what is cut down to an account decides there as the whole file does."""

from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.domain.log_group import LogGroup
from service.registry.document import AccountDocument, check, everywhere, tenants_by_account, written
from service.registry.schema import TenantFile

ACCOUNTS = ["111122223333", "222233334444", "333344445555"]
IDS = ["acme", "blue", "core"]
NAMES = ["/acme/x", "/blue/x", "/core/x", "/nobody/x", "/other"]
TAGS: list[dict[str, str] | None] = [None, {}, {"team": "a"}, {"logwarden:ignore": ""}]

accounts = st.lists(st.sampled_from(ACCOUNTS), min_size=1, max_size=2, unique=True)
scopes = st.fixed_dictionaries(
    {"accounts": accounts},
    optional={
        "organizational_units": st.lists(st.sampled_from(["all", "some"]), min_size=1, max_size=1),
        "names": st.lists(st.sampled_from(["/acme/*", "/blue/*", "*"]), min_size=1, max_size=2),
        "tags": st.just({"team": ["a"]}),
    },
)
exclusions = st.lists(scopes, max_size=1)


def tenant(id_: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "id": st.just(id_),
            "keys": st.just({"eu-west-1": f"arn:aws:kms:eu-west-1:111122223333:key/{id_}"}),
            "rules": st.lists(scopes, min_size=1, max_size=2),
        },
        optional={"exclude": exclusions},
    )


documents = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "organizational_units": st.fixed_dictionaries({"all": accounts.map(lambda a: [*a, "some"]), "some": accounts}),
        "tenants": st.tuples(*map(tenant, IDS)).map(list),
    },
    optional={
        "match": st.just("first-match"),
        "ignore_tag": st.sampled_from(["never", "always"]),
        "default_tenant": st.sampled_from(IDS),
        "exclude": exclusions,
        "shared_rules": accounts.map(lambda a: [{"accounts": a, "name_regex": "^/(?P<tenant>[a-z]+)/"}]),
    },
)


@settings(deadline=None, max_examples=150)
@given(documents)
def test_a_document_of_one_account_decides_there_as_the_whole_does(data: dict[str, Any]) -> None:
    whole, problems = check(data)
    assume(whole is not None and not problems)
    assert isinstance(whole, TenantFile)
    of_account = dict(tenants_by_account(whole))
    assert {a for a in ACCOUNTS if whole.rules().lists(a)} == set(of_account)  # type: ignore[arg-type]
    default = [tenant for tenant in whole.tenants if tenant.id == whole.default_tenant]
    for account, tenants in of_account.items():
        entries = [written(tenant) for tenant in tenants] + [
            written(tenant) for tenant in default if tenant not in tenants
        ]
        part, problems = check(everywhere(whole) | {"tenants": entries}, AccountDocument)
        assert part is not None
        assert not problems
        for name in NAMES:
            group = LogGroup.of(account, "eu-west-1", name)
            assert part.rules().depends_on_tags(group) == whole.rules().depends_on_tags(group)
            for tags in TAGS:
                assert part.rules().decide(group, tags) == whole.rules().decide(group, tags)
