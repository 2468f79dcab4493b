"""The tenant file's schema: what an operator may write, checked and described at the edge, and what it means inside."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from service.domain.conditions import Conditions, Globs
from service.domain.log_group import AccountId, KeyArn, Region, TenantId, account_id, key_arn, region_name
from service.domain.tenancy import Exclusion, Tenant, TenantRules

_TENANT_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_NAME_GLOB: Final = re.compile(r"[.\-_/#A-Za-z0-9*?!\[\]]{1,512}\Z")  # what a name is made of, and what a glob adds


def _tenant_id(value: str) -> TenantId:
    if not _TENANT_ID.match(value):
        raise ValueError(f"{value[:80]!r} is not a tenant id: up to 63 letters, digits, dots, hyphens and underscores")
    return TenantId(value)


def _name_glob(value: str) -> str:
    if not _NAME_GLOB.match(value):
        raise ValueError(
            f"{value[:80]!r} matches no log group: names hold letters, digits and . - _ / #, and a glob adds * ? [ab] [!ab]"
        )
    return value


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _ConditionsEntry(_Entry):
    accounts: list[Annotated[AccountId, AfterValidator(account_id)]] = Field(
        [],
        min_length=1,
        description="Account ids, in quotes: YAML reads digits as a number.",
    )
    regions: list[Annotated[Region, AfterValidator(region_name)]] = Field(
        [], min_length=1, description="Regions; every Region where it is left out."
    )
    names: list[Annotated[str, AfterValidator(_name_glob)]] = Field(
        [],
        min_length=1,
        description="Globs for the whole name; every name where it is left out. `*` crosses `/`, and case counts.",
    )
    tags: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(
        {}, min_length=1, description="For each tag key, globs for its value. Every key that is listed must match."
    )

    def conditions(self) -> Conditions:
        return Conditions(
            accounts=frozenset(self.accounts),
            regions=frozenset(self.regions),
            names=Globs(self.names) if self.names else None,
            tags={key: Globs(globs) for key, globs in self.tags.items()},
        )


class RuleEntry(_ConditionsEntry):
    """A rule: matches where every condition that is given holds; of a condition's values, any one will do."""

    accounts: list[Annotated[AccountId, AfterValidator(account_id)]] = Field(
        min_length=1,
        description=(
            "Account ids, in quotes: YAML reads digits as a number. A role is assumed only in accounts that a rule lists."
        ),
    )


class ExclusionEntry(_ConditionsEntry):
    """An exclusion: matches as a rule does, and needs at least one condition."""

    reason: str = Field("", min_length=1, description="Why, for whoever asks what became of such a log group.")

    @model_validator(mode="after")
    def _has_condition(self) -> "ExclusionEntry":
        if self.conditions() == Conditions():
            raise ValueError("has no condition, and would exclude every log group")
        return self

    def exclusion(self) -> Exclusion:
        return Exclusion(self.conditions(), self.reason)


class TenantEntry(_Entry):
    """A tenant."""

    id: Annotated[TenantId, AfterValidator(_tenant_id)] = Field(
        description="Its name in logs, outcomes and metrics; unique in the file."
    )
    keys: dict[Annotated[Region, AfterValidator(region_name)], Annotated[KeyArn, AfterValidator(key_arn)]] = Field(
        min_length=1,
        description="Its KMS key in each Region that it uses, as an ARN: a log group can only use a key of its own Region.",
    )
    rules: list[RuleEntry] = Field(
        min_length=1,
        description="What it owns. Any rule may match; a log group that rules of two tenants match gets no key.",
    )
    exclude: list[ExclusionEntry] = Field([], description="Which of its log groups to leave alone.")

    def tenant(self) -> Tenant:
        return Tenant(
            id=self.id,
            keys=self.keys,
            rules=tuple(rule.conditions() for rule in self.rules),
            exclusions=tuple(entry.exclusion() for entry in self.exclude),
        )


class TenantFile(_Entry):
    """The whole file."""

    version: Literal[1] = Field(description="Version of this schema: `1`.")
    tenants: list[TenantEntry] = Field(min_length=1, description="Every tenant.")
    default_tenant: TenantId | None = Field(
        None,
        description="Id of the tenant that owns what no rule matches, in accounts that some rule lists. Nobody where it is left out.",
    )
    exclude: list[ExclusionEntry] = Field([], description="Which log groups to leave alone, whoever owns them.")

    def rules(self) -> TenantRules:
        return TenantRules(
            tenants=[entry.tenant() for entry in self.tenants],
            exclusions=[entry.exclusion() for entry in self.exclude],
            default=self.default_tenant,
        )


def entry_at(location: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The model of the mapping at a location of the file, None where a mapping is no model or there is none."""
    model: type[BaseModel] | None = TenantFile
    for part in location:
        if isinstance(part, int):
            continue
        model = _nested(model.model_fields[part].annotation) if model and part in model.model_fields else None
    return model


def tenant_file_reference() -> str:
    """The schema as a Markdown table, one row a field, for the documentation."""
    rows = "\n".join(
        f"| `{path}` | {'yes' if is_required else ''} | {description} |"
        for path, is_required, description in _fields(TenantFile, "", set())
    )
    return f"| Field | Required | Meaning |\n|---|---|---|\n{rows}\n"


def _fields(model: type[BaseModel], prefix: str, seen: set[type[BaseModel]]) -> Iterator[tuple[str, bool, str]]:
    for name, field in model.model_fields.items():
        nested = _nested(field.annotation)
        again = " Fields as above." if nested in seen else ""
        yield f"{prefix}{name}", field.is_required(), f"{field.description}{again}"
        if nested is not None and nested not in seen:
            seen.add(nested)
            yield from _fields(nested, f"{prefix}{name}[].", seen)


def _nested(annotation: Any) -> type[BaseModel] | None:
    """The model in a list of models."""
    return next((arg for arg in get_args(annotation) if isinstance(arg, type) and issubclass(arg, BaseModel)), None)
