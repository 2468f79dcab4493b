"""Where log groups may be a tenant's: in the accounts of its rules and the Regions of its keys. Tenants are added one by one, so that
a registry elsewhere is never held as a whole.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain

from service.domain.conditions import Conditions
from service.domain.log_group import AccountId, KeyRef, Lane, Region, TenantId
from service.domain.tenancy import Tenant, TenantRules


class Reach:
    """What the tenants that were added reach. `shared` rules reach for every tenant, the `default` one whatever any rule lists."""

    def __init__(self, *, shared: Iterable[Conditions], default: TenantId | None) -> None:
        self._shared = tuple(shared)
        self._default = default
        self._default_regions: frozenset[Region] = frozenset()
        self._accounts: set[AccountId] = set(chain.from_iterable(rule.accounts for rule in self._shared))
        self._regions: defaultdict[frozenset[AccountId], set[Region]] = defaultdict(set)

    def add(self, tenant: Tenant) -> None:
        """Take in one tenant; a repeat changes nothing."""
        for accounts, regions in self._of_rules(tenant):
            self._accounts |= accounts
            self._regions[accounts] |= regions
        if tenant.id == self._default:
            self._default_regions = frozenset(tenant.keys)

    @property
    def lanes(self) -> set[Lane]:
        """Where log groups may be anybody's who has a key there."""
        lanes = {
            Lane(account, region)
            for accounts, regions in self._regions.items()
            for account in accounts
            for region in regions
        }
        return lanes | {Lane(account, region) for account in self._accounts for region in self._default_regions}

    def lanes_of(self, tenant: Tenant) -> dict[Lane, KeyRef]:
        """Where log groups may be this tenant's, and its key there. The default tenant's are known once all tenants were added."""
        scopes = [*self._of_rules(tenant)]
        if tenant.id == self._default:
            scopes.append((frozenset(self._accounts), frozenset(tenant.keys)))
        return {
            Lane(account, region): tenant.keys[region]
            for accounts, regions in scopes
            for account in accounts
            for region in regions
        }

    def _of_rules(self, tenant: Tenant) -> Iterator[tuple[frozenset[AccountId], frozenset[Region]]]:
        with_a_key = frozenset(tenant.keys)
        for rule in chain(tenant.rules, self._shared):
            yield rule.accounts, rule.regions & with_a_key if rule.regions else with_a_key


def reach_of(rules: TenantRules) -> Reach:
    """What every tenant of some rules reaches."""
    reach = Reach(shared=rules.shared, default=rules.default)
    for tenant in rules.tenants.values():
        reach.add(tenant)
    return reach
