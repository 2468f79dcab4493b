"""A tenant document: plain data in the shape of the tenant file, whatever it was read from, checked and told of in plain words.

The tenant file is one such document. A registry elsewhere gives another one for each account: the same file, with no more tenants
than those with a rule on that account, the default tenant, and where a shared rule lists the account, all that it may name. It may
have no tenants.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final
from weakref import WeakValueDictionary

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from service.domain.log_group import AccountId, InvalidIdentityError, key_ref, key_region
from service.domain.tenancy import Tenant, TenantRules
from service.registry.located_yaml import Location
from service.registry.schema import Contradiction, RuleEntry, SharedRuleEntry, TenantEntry, TenantFile, Units, entry_at
from service.registry.source import AccountTenants, SourceDataError

_QUICK: Final = 50  # tenants that are checked in a few ms; more would hold up the event loop

# By the type of pydantic's error; `_reason` has those that need more than a constant.
_REASONS: Final = {
    "missing": "is missing",
    "string_type": "has to be text",
    "list_type": "has to be a list",
    "dict_type": "has to be a mapping",
    "model_type": "has to be a mapping",
    "too_short": "is empty",
    "string_too_short": "is empty",
}


class AccountDocument(TenantFile):
    """The tenant document of one account; without tenants, nobody lists the account."""

    tenants: list[TenantEntry] = Field([], description="Those that may own something there.")


class AccountDocuments:
    """Makes answers of a source's documents. Accounts with one document, as a shared rule's have it, share its rules, made once."""

    def __init__(self) -> None:
        self._rules: WeakValueDictionary[str, TenantRules] = WeakValueDictionary()  # gone with the last answer
        self._making = asyncio.Lock()  # of long ones: many accounts ask at once

    async def answer(
        self, data: Any, *, account: AccountId, known: AccountTenants | None, etag: str | None = None
    ) -> AccountTenants:
        """What a document says of an account; the rules of `known` again if it is the same. Raises SourceDataError with every problem."""
        tenants = data.get("tenants") if isinstance(data, dict) else None
        is_long = isinstance(tenants, list) and len(tenants) > _QUICK
        digest = await asyncio.to_thread(digest_of, data) if is_long else digest_of(data)
        if known is not None and known.digest == digest:
            return replace(known, etag=etag)
        rules = self._rules.get(digest)
        if rules is None:
            rules = await self._made(data, digest) if is_long else _rules(data)
            self._rules[digest] = rules
        return AccountTenants(rules=rules, is_listed=rules.lists(account), digest=digest, etag=etag)

    async def _made(self, data: Any, digest: str) -> TenantRules:
        async with self._making:
            made = self._rules.get(digest)
            if made is None:
                made = self._rules[digest] = await asyncio.to_thread(_rules, data)
            return made


def _rules(data: Any) -> TenantRules:
    document, problems = check(data, AccountDocument)
    if document is None or problems:
        raise SourceDataError(problems_text(problems))
    return document.rules()


def tenants_by_account(tenant_file: TenantFile) -> Iterator[tuple[AccountId, list[TenantEntry]]]:
    """The tenants of each account's document, without the default tenant. Expects a file that has been checked."""
    units = tenant_file.organizational_units

    def accounts_of(scope: RuleEntry | SharedRuleEntry) -> Iterator[AccountId]:
        names = list(scope.organizational_units)
        while names:
            for member in units[names.pop()]:
                if member in units:
                    names.append(member)
                else:
                    yield AccountId(member)
        yield from scope.accounts

    everybodys = {account for rule in tenant_file.shared_rules for account in accounts_of(rule)}
    tenants: dict[AccountId, list[TenantEntry]] = {account: list(tenant_file.tenants) for account in everybodys}
    for tenant in tenant_file.tenants:
        for account in {account for rule in tenant.rules for account in accounts_of(rule)} - everybodys:
            tenants.setdefault(account, []).append(tenant)
    yield from tenants.items()


def tenant_in(data: Any, units: Units) -> Tenant:
    """One tenant as a registry has it written. Raises SourceDataError with every problem in it."""
    try:
        return TenantEntry.model_validate(data).tenant(units)
    except ValidationError as e:
        errors = e.errors(include_url=False)
        problems = [Contradiction(each["loc"], _reason(_in_a_file(each), None)) for each in errors]
        raise SourceDataError(problems_text(problems)) from e
    except ValueError as e:
        raise SourceDataError(str(e)) from e


def _in_a_file(error: ErrorDetails) -> ErrorDetails:
    """An error in a tenant, as one of a document that has only this tenant."""
    return {**error, "loc": ("tenants", 0, *error["loc"])}


def digest_of(data: Any) -> str:
    """Plain data, in short: equal for equal data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:32]


def check(
    data: Any, model: type[TenantFile] = TenantFile, *, scalar_at: Callable[[Location], str | None] = lambda _: None
) -> tuple[TenantFile | None, list[Contradiction]]:
    """The document as its model, None where it does not fit, and all that is wrong with it.

    `scalar_at` gives a value as it is written, where the data come from YAML, which makes a number of an account id.
    """
    problems = list(_contradictions(data))
    try:
        document = model.model_validate(data)
    except ValidationError as e:
        errors = e.errors(include_url=False)
        return None, problems + [Contradiction(e["loc"], _reason(e, scalar_at(e["loc"]))) for e in errors]
    return document, problems or list(document.contradictions())


def path_of(location: Location) -> str:
    """`tenants[0].keys.eu-west-1`; pydantic's mark for a mapping's key, `[key]`, is left out."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if part != "[key]")
    return "".join(parts).removeprefix(".")


def everywhere(tenant_file: TenantFile) -> dict[str, Any]:
    """What of a tenant file holds for everybody: all of it but the tenants, as it would be written."""
    return tenant_file.model_dump(mode="json", exclude_defaults=True, exclude={"tenants"}) | {"version": 1}


def written(tenant: TenantEntry) -> dict[str, Any]:
    """A tenant as it would be written."""
    return tenant.model_dump(mode="json", exclude_defaults=True)


def told(problem: Contradiction, called: Callable[[Location], str] = path_of) -> str:
    """The reason in full; `called` says how another place is called."""
    return f"{problem.reason} {called(problem.other)}" if problem.other else problem.reason


def problems_text(problems: Iterable[Contradiction]) -> str:
    """A line for each problem."""
    return "\n".join(f"{path_of(each.at)}: {told(each)}" if each.at else told(each) for each in problems)


def _contradictions(data: Any) -> Iterator[Contradiction]:
    """What only shows where several fields are looked at together. Passes over whatever the schema will refuse."""
    document = data if isinstance(data, dict) else {}
    tenants = document.get("tenants")
    ids: dict[str, int] = {}
    for index, tenant in enumerate(tenants if isinstance(tenants, list) else []):
        id_, keys = (tenant.get("id"), tenant.get("keys")) if isinstance(tenant, dict) else (None, None)
        if isinstance(id_, str) and ids.setdefault(id_, index) != index:
            yield Contradiction(("tenants", index, "id"), f"{id_} is already the id of", ("tenants", ids[id_]))
        for region, key in keys.items() if isinstance(keys, dict) else ():
            if isinstance(region, str) and _region_of(key) not in {None, region}:
                yield Contradiction(
                    ("tenants", index, "keys", region), f"the key is in {_region_of(key)}, not in {region}"
                )
    default = document.get("default_tenant")
    if isinstance(default, str) and default not in ids:
        yield Contradiction(("default_tenant",), f"there is no tenant {default}")


def _region_of(key: Any) -> str | None:
    try:
        return key_region(key_ref(key))
    except InvalidIdentityError:
        return None


def _reason(error: ErrorDetails, written: str | None) -> str:
    """What is wrong in the words of somebody who edits such documents; pydantic's own are about Python."""
    location, value = error["loc"], error["input"]
    match error["type"]:
        case _ if value is None:
            return "is empty"
        case "extra_forbidden":
            model = entry_at(location[:-1])
            return f"is no field here; there are {', '.join(model.model_fields)}" if model else "is no field here"
        case "string_type" if written is not None and not isinstance(value, list | dict):
            return f'has to be in quotes ("{written}"): YAML reads {written} as {_yaml_kind(value)}'
        case "literal_error":
            return f"has to be {error['ctx']['expected']}"
        case "value_error":
            return str(error["ctx"]["error"])
        case other:
            return _REASONS.get(other, error["msg"])


def _yaml_kind(value: object) -> str:
    if isinstance(value, bool):
        return f"{value}".lower()
    return f"the number {value}" if isinstance(value, int | float) else f"a {type(value).__name__}"
