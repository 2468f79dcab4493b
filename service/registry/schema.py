"""The tenant file's schema: what an operator may write, checked and described at the edge, and what it means inside."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import chain, islice
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from service.domain.conditions import Conditions, Globs
from service.domain.log_group import AccountId, KeyRef, Region, TenantId, account_id, key_ref, region_name
from service.domain.name_pattern import NamePattern
from service.domain.tenancy import IGNORE_TAG, Exclusion, IgnoreTag, Match, Overwrite, Tenant, TenantRules
from service.registry.located_yaml import Location

_MAX_OVERLAPS: Final = 20  # told at once: one mistake can make thousands
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


Units = Mapping[str, frozenset[AccountId]]
_NO_UNITS: Final[Units] = {}


class Contradiction(NamedTuple):
    """What only shows where several fields are looked at together. The reason ends with another place, where `other` is one."""

    at: Location
    reason: str
    other: Location | None = None


def _unit_member(value: str) -> str:
    return account_id(value) if value.isdigit() else value


def _name_regex(value: str) -> str:
    NamePattern(value)
    return value


class _ScopeEntry(_Entry):
    accounts: list[Annotated[AccountId, AfterValidator(account_id)]] = Field(
        [],
        min_length=1,
        description="Account ids, in quotes: YAML reads digits as a number.",
    )
    organizational_units: list[str] = Field(
        [], min_length=1, description="Units of `organizational_units`, whose accounts are added to `accounts`."
    )
    regions: list[Annotated[Region, AfterValidator(region_name)]] = Field(
        [], min_length=1, description="Regions; every Region where it is left out."
    )
    tags: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(
        {}, min_length=1, description="For each tag key, globs for its value. Every key that is listed must match."
    )

    def _conditions(self, names: Globs | NamePattern | None, units: Units) -> Conditions:
        """Raises ValueError for a unit that there is not."""
        unknown = [unit for unit in self.organizational_units if unit not in units]
        if unknown:
            raise ValueError(f"there is no organizational unit {unknown[0]}")
        return Conditions(
            accounts=frozenset(self.accounts).union(*(units[unit] for unit in self.organizational_units)),
            regions=frozenset(self.regions),
            names=names,
            tags={key: Globs(globs) for key, globs in self.tags.items()},
        )


class _ConditionsEntry(_ScopeEntry):
    names: list[Annotated[str, AfterValidator(_name_glob)]] = Field(
        [],
        min_length=1,
        description="Globs for the whole name; every name where it is left out. `*` crosses `/`, and case counts.",
    )

    def conditions(self, units: Units) -> Conditions:
        return self._conditions(Globs(self.names) if self.names else None, units)


class _Rule(_ScopeEntry):
    @model_validator(mode="after")
    def _lists_accounts(self) -> "_Rule":
        if not self.accounts and not self.organizational_units:
            raise ValueError(
                "needs accounts or organizational_units: a role is assumed only in accounts that a rule lists"
            )
        return self


class RuleEntry(_Rule, _ConditionsEntry):
    """A rule: matches where every condition that is given holds; of a condition's values, any one will do.

    It needs accounts, by their ids or by units: a role is assumed only in accounts that a rule lists.
    """


class SharedRuleEntry(_Rule):
    """A rule that reads the tenant's id out of the name. It needs accounts, as every rule."""

    name_regex: Annotated[str, AfterValidator(_name_regex)] = Field(
        description=(
            "Regular expression from the start (`^`) of the name on, with a group `(?P<tenant>...)` that reads the tenant's id. No "
            "name may be readable in two ways, which keeps a match certain and quick: let a character follow the group that it "
            "cannot hold. Where there is no such tenant, the log group gets no key."
        )
    )

    def conditions(self, units: Units) -> Conditions:
        return self._conditions(NamePattern(self.name_regex), units)


class ExclusionEntry(_ConditionsEntry):
    """An exclusion: matches as a rule does, and needs at least one condition."""

    reason: str = Field("", min_length=1, description="Why, for whoever asks what became of such a log group.")

    @model_validator(mode="after")
    def _has_condition(self) -> "ExclusionEntry":
        if not self.model_fields_set - {"reason"}:
            raise ValueError("has no condition, and would exclude every log group")
        return self

    def exclusion(self, units: Units) -> Exclusion:
        return Exclusion(self.conditions(units), self.reason)


class TenantEntry(_Entry):
    """A tenant."""

    id: Annotated[TenantId, AfterValidator(_tenant_id)] = Field(
        description="Its name in logs, outcomes and metrics; unique in the file."
    )
    keys: dict[Annotated[Region, AfterValidator(region_name)], Annotated[KeyRef, AfterValidator(key_ref)]] = Field(
        min_length=1,
        description="Its KMS key in each Region that it uses, as an ARN: a log group can only use a key of its own Region.",
    )
    rules: list[RuleEntry] = Field(
        min_length=1,
        description="What it owns: any of its rules may match. Each needs `accounts` or `organizational_units`.",
    )
    exclude: list[ExclusionEntry] = Field([], description="Which of its log groups to leave alone.")
    overwrite: Literal["always", "when-no-key", "never"] = Field(
        "always",
        description=(
            "Which of its log groups may be brought under its key: `always`, the default, all of them; with `when-no-key` those without "
            "a key, so that one with any other key, an old one of the tenant's too, is left as it is; with `never` none. What is left as "
            "it is has the outcome `kept`, with the key that it has and the one that it should have."
        ),
    )

    def tenant(self, units: Units = _NO_UNITS) -> Tenant:
        """What it means, given the accounts of each organizational unit. Raises ValueError for a unit that there is not."""
        return Tenant(
            id=self.id,
            keys=self.keys,
            rules=tuple(rule.conditions(units) for rule in self.rules),
            exclusions=tuple(entry.exclusion(units) for entry in self.exclude),
            overwrite=Overwrite(self.overwrite),
        )


class TenantFile(_Entry):
    """The whole file."""

    version: Literal[1] = Field(description="Version of this schema: `1`.")
    match: Literal["all-agree", "first-match"] = Field(
        "all-agree",
        description=(
            "Where several rules match a log group: `all-agree`, the default, has them all name one tenant, and refuses rules of two "
            "tenants that could match one group; with `first-match` the rule that comes first decides: the tenants' in the order of "
            "this file, then the shared ones."
        ),
    )
    ignore_tag: Literal["never", "listed", "always"] = Field(
        "listed",
        description=(
            f"Whether a log group with the tag `{IGNORE_TAG}`, of any value but `false`, is left alone. With `listed`, the default, an "
            "event that shows it is believed, and so is CloudTrail's record of a group that was made this minute; otherwise the groups "
            "that have the tag are listed before a key is changed: one ListLogGroups call for an account and Region, remembered for "
            "five minutes. `always` looks the tags of every group up, of which AWS allows 5 a second for an account and Region. `never` "
            "where tenants must not decide it."
        ),
    )
    organizational_units: dict[
        str, Annotated[list[Annotated[str, AfterValidator(_unit_member)]], Field(min_length=1)]
    ] = Field(
        {},
        description=(
            "Accounts by organizational unit: for each name, id or path, a list of account ids, in quotes, and of other units here, "
            "whose accounts are part of it. It is not asked of AWS: generate it where accounts come and go."
        ),
    )
    tenants: list[TenantEntry] = Field(min_length=1, description="Every tenant.")
    shared_rules: list[SharedRuleEntry] = Field(
        [], description="Rules that read the tenant out of the name; they come after those of the tenants."
    )
    default_tenant: TenantId | None = Field(
        None,
        description="Id of the tenant that owns what no rule matches, in accounts that some rule lists. Nobody where it is left out.",
    )
    exclude: list[ExclusionEntry] = Field([], description="Which log groups to leave alone, whoever owns them.")

    def contradictions(self) -> Iterator[Contradiction]:
        """What is wrong with the organizational units, and if nothing is, the first rules that overlap.

        Expects ids that are unique, a default tenant that there is, and keys in their Regions.
        """
        unit_problems = [*self._wrong_units(), *self._unknown_units()]
        yield from unit_problems
        if not unit_problems:
            yield from self._overlaps()

    def rules(self) -> TenantRules:
        """The rules of a file without contradictions. Raises ValueError for a unit that there is not, or that holds itself."""
        return self._rules

    @cached_property
    def _rules(self) -> TenantRules:
        units = self.units()
        return TenantRules(
            tenants=[entry.tenant(units) for entry in self.tenants],
            shared=[entry.conditions(units) for entry in self.shared_rules],
            exclusions=[entry.exclusion(units) for entry in self.exclude],
            default=self.default_tenant,
            match=Match(self.match),
            ignore_tag=IgnoreTag(self.ignore_tag),
        )

    def units(self) -> Units:
        """The accounts of each organizational unit. Raises as `rules` does."""
        accounts: dict[str, frozenset[AccountId]] = {}
        for name in TopologicalSorter(self.organizational_units).static_order():  # members before their units
            members = self.organizational_units.get(name)
            accounts[name] = (
                frozenset({AccountId(name)})
                if members is None
                else frozenset().union(*(accounts[member] for member in members))
            )
        return {name: accounts[name] for name in self.organizational_units}

    def _wrong_units(self) -> Iterator[Contradiction]:
        units = self.organizational_units
        for name, members in units.items():
            if name.isdigit():
                yield Contradiction(("organizational_units", name), "is the id of an account, not the name of a unit")
            for index, member in enumerate(members):
                if not member.isdigit() and member not in units:
                    at = ("organizational_units", name, index)
                    yield Contradiction(at, f"there is no organizational unit {member}")
        try:
            TopologicalSorter(units).prepare()
        except CycleError as e:
            cycle: list[str] = e.args[1]
            reason = f"holds itself: {' < '.join(cycle)}"
            yield Contradiction(("organizational_units", cycle[0]), reason)

    def _unknown_units(self) -> Iterator[Contradiction]:
        scopes: Iterable[tuple[Location, _ScopeEntry]] = chain(
            ((("shared_rules", index), entry) for index, entry in enumerate(self.shared_rules)),
            ((("exclude", index), entry) for index, entry in enumerate(self.exclude)),
            (
                (("tenants", index, field, number), entry)
                for index, tenant in enumerate(self.tenants)
                for field, entries in (("rules", tenant.rules), ("exclude", tenant.exclude))
                for number, entry in enumerate(entries)
            ),
        )
        for at, entry in scopes:
            for index, unit in enumerate(entry.organizational_units):
                if unit not in self.organizational_units:
                    place = (*at, "organizational_units", index)
                    yield Contradiction(place, f"there is no organizational unit {unit}")

    def _overlaps(self) -> Iterator[Contradiction]:
        indexes = {tenant.id: index for index, tenant in enumerate(self.tenants)}
        for overlap in islice(self._rules.overlaps(), _MAX_OVERLAPS):
            second, first = (
                ("shared_rules", claim.number - 1)
                if claim.owner is None
                else ("tenants", indexes[claim.owner], "rules", claim.number - 1)
                for claim in (overlap.second, overlap.first)
            )
            reason = (
                f"overlaps {overlap.first}, since both match {overlap.example}; make them exclusive, or set match: first-match; "
                "the other is"
            )
            yield Contradiction(second, reason, first)


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
