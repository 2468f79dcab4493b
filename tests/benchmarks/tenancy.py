"""What it costs to decide whose a log group is, and to load the rules, with ten thousand tenants."""

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from service.domain.conditions import Conditions
from service.domain.log_group import LogGroup, TenantId
from service.domain.name_pattern import NamePattern
from service.domain.tenancy import Owned, Tenant
from service.registry.document import check
from service.registry.file import load_tenant_file
from tests.benchmarks.result import Result

_REGION = "eu-west-1"
_SHARED_ACCOUNTS = [f"5555{number:08d}" for number in range(20)]

Question = tuple[LogGroup, Mapping[str, str]]


async def tenancy(is_quick: bool) -> list[Result]:
    """Decisions a second of the compiled rules over those of a loop that asks every rule; microseconds each; seconds to load.

    A fifth each of the tenants have accounts of their own, or share twenty accounts and are told apart by how names start, by how
    they end, by a tag, or by a shared rule that reads their id out of the name. The loop asks the same compiled conditions,
    without explaining anything. Both take turns over the same log groups, one for every tenth tenant or fewer, in an order that is
    random and fixed; the values are medians. Loading is from plain data on: the schema, overlaps, and the index; what it takes
    from the file on, most of which is YAML's, is among the details.
    """
    count = 1_000 if is_quick else 10_000
    data, questions = _organisation(count)
    started = time.perf_counter()
    tenant_file, problems = check(data)
    assert tenant_file is not None
    assert not problems
    rules = tenant_file.rules()
    load_s = time.perf_counter() - started

    naive = _Naive(
        [entry.tenant() for entry in tenant_file.tenants], [rule.conditions({}) for rule in tenant_file.shared_rules]
    )
    asked = random.Random(1).sample(questions, min(count // 10, 200))
    ours_us, loop_us = [], []
    for _ in range(3 if is_quick else 7):
        ours_us.append(_us_each(rules.decide, asked, repeat=20))
        loop_us.append(_us_each(naive.tenant_of, asked, repeat=1))
    for group, tags in questions:
        decision = rules.decide(group, tags)
        assert isinstance(decision, Owned)
        assert group.name == "/x" or decision.tenant in group.name or decision.tenant == tags.get("tenant")
    details = {
        "ours_us": median(ours_us),
        "loop_us": median(loop_us),
        "depends_on_tags_us": median(
            _us_each(lambda group, _: rules.depends_on_tags(group), asked, repeat=20) for _ in range(3)
        ),
        "file_s": _file_s(data),
    }
    return [
        Result(name="tenancy", value=median(loop_us) / median(ours_us), at_least=100, details=details),
        Result(name="tenancy-us", value=median(ours_us), at_most=50),
        Result(name="tenancy-load-s", value=load_s, at_most=2),
    ]


class _Naive:
    """Every rule of everybody, one after the other."""

    def __init__(self, tenants: list[Tenant], shared: list[Conditions]) -> None:
        self._tenants = tenants
        self._shared = shared

    def tenant_of(self, group: LogGroup, tags: Mapping[str, str]) -> list[TenantId | None]:
        owners = [t.id for t in self._tenants for rule in t.rules if rule.unmet(group, tags) is None]
        patterns = [rule.names for rule in self._shared if rule.unmet(group, tags) is None]
        read = [names.tenant_in(group.name) for names in patterns if isinstance(names, NamePattern)]
        return [*owners, *read]


def _us_each(decide: Callable[[LogGroup, Any], object], asked: list[Question], *, repeat: int) -> float:
    started = time.perf_counter()
    for _ in range(repeat):
        for group, tags in asked:
            decide(group, tags)
    return (time.perf_counter() - started) / (len(asked) * repeat) * 1e6


def _file_s(data: dict[str, Any]) -> float:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tenants.yaml"
        path.write_text(yaml.dump(data, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
        started = time.perf_counter()
        load_tenant_file(path)
        return time.perf_counter() - started


def _organisation(count: int) -> tuple[dict[str, Any], list[Question]]:
    """A tenant file's data, and a log group of each tenant with its tags."""
    tenants: list[dict[str, Any]] = []
    questions: list[Question] = []
    for number in range(count):
        id_ = f"tenant-{number:05d}"
        account, name, tags = _SHARED_ACCOUNTS[number % len(_SHARED_ACCOUNTS)], f"/{id_}/orders", {"team": "x"}
        match number // 20 % 5:
            case 0:
                account, name = f"{number:012d}", "/x"
                rule: dict[str, Any] = {"accounts": [account, f"9{number:011d}"]}
            case 1:
                rule = {"accounts": [account], "names": [f"/{id_}/*", f"/aws/lambda/{id_}-*"]}
            case 2:
                name = f"/jobs/orders-{id_}"
                rule = {"accounts": [account], "names": [f"/jobs/*-{id_}"]}
            case 3:
                name, tags = "/ecs/orders", {"tenant": id_}
                rule = {"accounts": [account], "names": ["/ecs/*"], "tags": {"tenant": [id_]}}
            case _:
                name = f"/apps/{id_}/orders"
                rule = {"accounts": [f"9{number:011d}"]}
        key = f"arn:aws:kms:{_REGION}:111122223333:key/{number:08d}-1111-2222-3333-444455556666"
        tenants.append({"id": id_, "keys": {_REGION: key}, "rules": [rule]})
        questions.append((LogGroup.of(account, _REGION, name), tags))
    shared = {"accounts": _SHARED_ACCOUNTS, "name_regex": "^/apps/(?P<tenant>[a-z0-9-]+)/"}
    return {"version": 1, "tenants": tenants, "shared_rules": [shared]}, questions
