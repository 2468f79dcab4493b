"""The tenant file: what is accepted, how each mistake is told, and what becomes of a file that changes."""

import asyncio
import os
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from service.domain.log_group import KeyArn, LogGroup, TenantId
from service.domain.outcome import FailureClass
from service.domain.tenancy import Decision, Excluded, Overwrite, Owned, TenantRules, Undecided
from service.registry import schema
from service.registry.file import FileDirectory, TenantFileError, load_tenant_file
from service.registry.schema import tenant_file_reference

EXAMPLE: Final = Path(schema.__file__).with_name("tenants.example.yaml")
KEY: Final = KeyArn("arn:aws:kms:eu-west-1:111122223333:key/0a1b2c3d-1111-2222-3333-444455556666")
ACME: Final = f"""\
version: 1
tenants:
  - id: acme
    keys:
      eu-west-1: {KEY}
    rules:
      - accounts: ["111122223333"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tenants.yaml"


def load(path: Path, text: str | bytes) -> TenantRules:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_tenant_file(path)


def problems_of(path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(TenantFileError) as refused:
        load(path, text)
    assert str(refused.value) == "\n".join(f"{path}:{problem}" for problem in refused.value.problems)
    return [str(problem) for problem in refused.value.problems]


def with_tenant(lines: str) -> str:
    """The file of one tenant, with lines put in before its rules (line 6)."""
    return ACME.replace("    rules:", f"{lines}\n    rules:")


def with_rule(lines: str) -> str:
    """The file of one tenant with one rule, whose conditions start at line 8 after its accounts."""
    return ACME + "\n".join(f"        {line}" for line in lines.splitlines()) + "\n"


def decide(
    rules: TenantRules, name: str, account: str = "111122223333", tags: dict[str, str] | None = None
) -> Decision:
    return rules.decide(LogGroup.of(account, "eu-west-1", name), tags)


# -- what is accepted


def test_the_example_decides_as_its_comments_say() -> None:
    rules = load_tenant_file(EXAMPLE)
    acme, shared, sandbox = "111122223333", "555566667777", "999900001111"
    reason = "exclusion 1: Public data sets, read by partners who have no right to decrypt."
    assert decide(rules, "/aws/rds/x", acme, {"data-class": "public"}) == Excluded(reason)
    assert isinstance(decide(rules, "/aws/rds/x", acme), Owned)
    assert decide(rules, "/x", sandbox) == Excluded("exclusion 2: The sandbox account is wiped every night.")
    assert decide(rules, "/anything", acme) == Owned(TenantId("acme"), KEY, "rule 1 of acme")
    assert decide(rules, "/acme/scratch/1", acme) == Excluded("exclusion 1 of acme")
    owners = {
        name: decision.tenant
        if isinstance(decision := decide(rules, name, shared, {"tenant": "blue-2"}), Owned)
        else None
        for name in (
            "/blue/x",
            "/aws/lambda/blue-x",
            "/aws/lambda/shared-x",
            "/platform/x",
            "/aws/eks/prod/cluster",
            "/x",
        )
    }
    assert owners == {
        "/blue/x": "blue",
        "/aws/lambda/blue-x": "blue",
        "/aws/lambda/shared-x": "blue",
        "/platform/x": "platform",
        "/aws/eks/prod/cluster": "platform",
        "/x": None,
    }
    assert decide(rules, "/apps/acme/x", "333344445555") == Owned(TenantId("acme"), KEY, "shared rule 1")
    assert isinstance(decide(rules, "/apps/green/x", "666677778888"), Undecided)
    platforms = decide(rules, "/platform/x", shared)
    assert isinstance(platforms, Owned)
    assert platforms.overwrite is Overwrite.WHEN_NO_KEY
    assert isinstance(decide(rules, "/ecs/prod/blue", shared, {"managed-by": "terraform"}), Owned)
    assert isinstance(decide(rules, "/platform/x", "444455556666"), Owned)
    assert decide(rules, "/x", acme, {"logwarden:ignore": "true"}) == Excluded("it has the tag logwarden:ignore")
    prod = LogGroup.of("444455556666", "us-east-1", "/apps/acme/x")
    assert rules.decide(prod, None) == Excluded("exclusion 3: Nothing of ours runs there.")


@pytest.mark.parametrize("overwrite", Overwrite)
def test_a_tenant_says_what_may_be_overwritten_however_its_group_is_found(path: Path, overwrite: Overwrite) -> None:
    text = (
        with_tenant(f"    overwrite: {overwrite}")
        + 'default_tenant: acme\nshared_rules: [{accounts: ["222233334444"], name_regex: "^/(?P<tenant>[a-z]+)/"}]\n'
    )
    rules = load(path, text)
    for account, name in (("111122223333", "/x"), ("222233334444", "/acme/x"), ("222233334444", "other")):
        decision = decide(rules, name, account)
        assert isinstance(decision, Owned)
        assert decision.overwrite is overwrite


def test_an_unknown_overwrite_policy_is_refused_with_its_line(path: Path) -> None:
    assert problems_of(path, with_tenant("    overwrite: sometimes")) == [
        "6: tenants[0].overwrite: has to be 'always', 'when-no-key' or 'never'"
    ]


def test_a_default_tenant_takes_what_no_rule_matches(path: Path) -> None:
    rules = load(path, with_rule('names: ["/acme/*"]') + "default_tenant: acme\n")
    assert decide(rules, "/x") == Owned(TenantId("acme"), KEY, "the default tenant")


def test_without_a_default_tenant_nobody_does(path: Path) -> None:
    decision = decide(load(path, with_rule('names: ["/acme/*"]')), "/x")
    assert isinstance(decision, Undecided)
    assert decision.failure is FailureClass.UNKNOWN_TENANT


def test_anchors_and_merge_keys_are_understood(path: Path) -> None:
    text = (
        with_rule('names: &ours ["/acme/*"]') + "exclude:\n  - &tmp {names: [/tmp/*]}\n  - {<<: *tmp, names: *ours}\n"
    )
    assert decide(load(path, text), "/acme/x") == Excluded("exclusion 2")


def test_units_are_the_accounts_in_them_and_in_the_units_that_they_hold(path: Path) -> None:
    units = """\
organizational_units:
  root: [workloads, "999900001111"]
  workloads: [workloads/prod]
  workloads/prod: ["222233334444", "333344445555"]
exclude:
  - organizational_units: [workloads/prod]
    names: ["/tmp/*"]
"""
    text = ACME.replace('accounts: ["111122223333"]', "organizational_units: [root]") + units
    for account in ("222233334444", "333344445555", "999900001111"):
        assert isinstance(decide(load(path, text), "/x", account), Owned)
    decision = decide(load(path, text), "/x")
    assert isinstance(decision, Undecided)
    assert decision.failure is FailureClass.ACCOUNT_NOT_LISTED
    assert isinstance(decide(load(path, text), "/tmp/x", "222233334444"), Excluded)
    assert isinstance(decide(load(path, text), "/tmp/x", "999900001111"), Owned)


def test_a_rule_may_list_accounts_beside_units(path: Path) -> None:
    text = with_rule("organizational_units: [prod]") + 'organizational_units: {prod: ["222233334444"]}\n'
    assert isinstance(decide(load(path, text), "/x"), Owned)
    assert isinstance(decide(load(path, text), "/x", "222233334444"), Owned)


BLUE: Final = ACME.partition("tenants:\n")[2].replace("acme", "blue")


def test_rules_of_two_tenants_that_could_match_one_group_are_refused(path: Path) -> None:
    assert problems_of(path, with_rule("regions: [eu-west-1]") + BLUE + "        names: ['/b*']\n") == [
        "13: tenants[1].rules[0]: overlaps rule 1 of acme, since both match /b of account 111122223333 in eu-west-1; make them exclusive, or set match: first-match; the other is tenants[0].rules[0] on line 7"
    ]


def test_the_first_of_very_many_overlaps_are_told(path: Path) -> None:
    text = ACME + "".join(BLUE.replace("blue", f"t{number}") for number in range(50))
    assert len(problems_of(path, text)) == 20


def test_the_first_match_decides_where_that_is_asked_for(path: Path) -> None:
    rules = load(path, ACME + BLUE + "match: first-match\n")
    assert decide(rules, "/x") == Owned(TenantId("acme"), KEY, "rule 1 of acme")


@pytest.mark.parametrize(("written", "is_ignored"), [("", True), ("ignore_tag: never\n", False)])
def test_the_ignore_tag_can_be_switched_off(path: Path, written: str, is_ignored: bool) -> None:
    decision = decide(load(path, ACME + written), "/x", tags={"logwarden:ignore": "true"})
    assert isinstance(decision, Excluded) == is_ignored


# -- what is refused


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: is empty"),
        ("# nothing", "1: is empty"),
        ("[]", "1: has to be a mapping"),
        (b"version: 1\n\xff", "2: is not UTF-8"),
        ("version: 1\nx: \x00", "2: holds a character that YAML forbids: control characters are not allowed"),
        ("version: 1\ntenants: [\n", "3: while parsing a flow node did not find expected node content"),
        ("version: 1\ntenants: !Ref x", "2: could not determine a constructor for the tag '!Ref'"),
        ("version: 1\n---\nversion: 1", "2: expected a single document in the stream but found another document"),
        ("version: 2026-02-31", "1: holds a value that YAML cannot read: ValueError: day is out of range for month"),
        (ACME.replace("version: 1", "version: 2"), "1: version: has to be 1"),
        (ACME.replace("version: 1\n", ""), "1: version: is missing"),
        ("version: 1\ntenants: []", "2: tenants: is empty"),
        ("version: 1\ntenants:", "2: tenants: is empty"),
        ("version: 1\ntenants: {}", "2: tenants: has to be a list"),
        (ACME + "  - 5\n", "8: tenants[1]: has to be a mapping"),
        (ACME.replace("    keys:", "    key:"), "3: tenants[0].keys: is missing"),
        (ACME.replace("    keys:", "    key:"), "4: tenants[0].key: is no field here; there are id, keys, rules, exclude, overwrite"),
        (ACME.replace("acme", "42"), '3: tenants[0].id: has to be in quotes ("42"): YAML reads 42 as the number 42'),
        (ACME.replace("acme", "yes"), '3: tenants[0].id: has to be in quotes ("yes"): YAML reads yes as true'),
        (ACME.replace("acme", "2026-01-01"), '3: tenants[0].id: has to be in quotes ("2026-01-01"): YAML reads 2026-01-01 as a date'),
        (ACME.replace("acme", "[a]"), "3: tenants[0].id: has to be text"),
        (
            ACME.replace("acme", "a b"),
            "3: tenants[0].id: 'a b' is not a tenant id: up to 63 letters, digits, dots, hyphens and underscores",
        ),
        (
            ACME.replace(KEY, "alias/acme"),
            "5: tenants[0].keys.eu-west-1: key 'alias/acme' is not a KMS key's or alias's ARN (arn:aws:kms:REGION:ACCOUNT:key/ID or :alias/NAME)",
        ),
        (ACME.replace("eu-west-1:", "us-east-1:", 1), "5: tenants[0].keys.us-east-1: the key is in eu-west-1, not in us-east-1"),
        (
            ACME.replace("eu-west-1:", "Ireland:", 1),
            "5: tenants[0].keys.Ireland: region 'Ireland' is not a Region name such as eu-west-1",
        ),
        (ACME.replace(f"\n      eu-west-1: {KEY}", " {}"), "4: tenants[0].keys: is empty"),
        (
            ACME.replace('"111122223333"', "111122223333"),
            '7: tenants[0].rules[0].accounts[0]: has to be in quotes ("111122223333"): YAML reads 111122223333 as the number 111122223333',
        ),
        (
            ACME.replace('"111122223333"', "012345670123"),
            '7: tenants[0].rules[0].accounts[0]: has to be in quotes ("012345670123"): YAML reads 012345670123 as the number 1402433619',
        ),
        (
            ACME.replace("111122223333", "1234"),
            "7: tenants[0].rules[0].accounts[0]: account '1234' is not an account id of 12 digits",
        ),
        (ACME.replace('["111122223333"]', "[]"), "7: tenants[0].rules[0].accounts: is empty"),
        (
            ACME.replace("accounts", "names"),
            "7: tenants[0].rules[0]: needs accounts or organizational_units: a role is assumed only in accounts that a rule lists",
        ),
        (with_rule("regions:"), "8: tenants[0].rules[0].regions: is empty"),
        (with_rule("regions: eu-west-1"), "8: tenants[0].rules[0].regions: has to be a list"),
        (with_rule("\nregions: [\n  Ireland\n]"), "10: tenants[0].rules[0].regions[0]: region 'Ireland' is not a Region name such as eu-west-1"),
        (
            with_rule("names: ['^/acme/.+$']"),
            "8: tenants[0].rules[0].names[0]: '^/acme/.+$' matches no log group: names hold letters, digits and . - _ / #, and a glob adds * ? [ab] [!ab]",
        ),
        (
            with_rule("names: [!!binary YQ==]"),
            '8: tenants[0].rules[0].names[0]: has to be in quotes ("YQ=="): YAML reads YQ== as a bytes',
        ),
        (with_rule("tags: {team: a}"), "8: tenants[0].rules[0].tags.team: has to be a list"),
        (with_rule("tags: {team: [5]}"), '8: tenants[0].rules[0].tags.team[0]: has to be in quotes ("5"): YAML reads 5 as the number 5'),
        (
            with_rule("region: [eu-west-1]"),
            "8: tenants[0].rules[0].region: is no field here; there are accounts, organizational_units, regions, tags, names",
        ),
        (with_rule('accounts: ["111122223333"]'), "8: tenants[0].rules[0].accounts: is here a second time"),
        (with_tenant("    id: acme"), "6: tenants[0].id: is here a second time"),
        (with_tenant("    exclude:\n    - reason: all"), "7: tenants[0].exclude[0]: has no condition, and would exclude every log group"),
        (ACME + "exclude:\n- {}\n", "9: exclude[0]: has no condition, and would exclude every log group"),
        (ACME + ACME.partition("tenants:\n")[2], "8: tenants[1].id: acme is already the id of tenants[0] on line 3"),
        (ACME + "default_tenant: blue\n", "8: default_tenant: there is no tenant blue"),
        (ACME + "match: any\n", "8: match: has to be 'all-agree' or 'first-match'"),
        (ACME + "ignore_tag: off\n", "8: ignore_tag: has to be 'never', 'listed' or 'always'"),
        (ACME + "organizational_units: {prod: []}\n", "8: organizational_units.prod: is empty"),
        (ACME + "organizational_units:\n  prod: ['12']\n", "9: organizational_units.prod[0]: account '12' is not an account id of 12 digits"),
        (ACME + "organizational_units:\n  prod: [dev]\n", "9: organizational_units.prod[0]: there is no organizational unit dev"),
        (ACME + "organizational_units:\n  '12': [prod]\n", "9: organizational_units.12: is the id of an account, not the name of a unit"),
        (ACME + "organizational_units:\n  a: [b]\n  b: [c]\n  c: [b]\n", "10: organizational_units.b: holds itself: b < c < b"),
        (with_rule("organizational_units: []"), "8: tenants[0].rules[0].organizational_units: is empty"),
        (
            with_rule("organizational_units:\n- prod") + "organizational_units: {dev: ['111122223333']}\n",
            "9: tenants[0].rules[0].organizational_units[0]: there is no organizational unit prod",
        ),
        (
            ACME + "exclude:\n- organizational_units: [prod]\n",
            "9: exclude[0].organizational_units[0]: there is no organizational unit prod",
        ),
        (
            with_tenant("    exclude:\n    - organizational_units: [prod]"),
            "7: tenants[0].exclude[0].organizational_units[0]: there is no organizational unit prod",
        ),
        (ACME + "shared_rules:\n- name_regex: ^(?P<tenant>a)/\n", "9: shared_rules[0]: needs accounts or organizational_units: a role is assumed only in accounts that a rule lists"),
        (ACME + "shared_rules:\n- accounts: ['111122223333']\n", "9: shared_rules[0].name_regex: is missing"),
        (ACME + "shared_rules:\n- accounts: ['111122223333']\n  name_regex: ^/(a+)+/\n", "10: shared_rules[0].name_regex: has no group (?P<tenant>...)"),
        (
            ACME + "shared_rules:\n- organizational_units: [prod]\n  name_regex: ^(?P<tenant>a)/\n",
            "9: shared_rules[0].organizational_units[0]: there is no organizational unit prod",
        ),
        (
            ACME + "shared_rules:\n- accounts: ['111122223333']\n  name_regex: ^/(?P<tenant>[a-z]+)/\n",
            "9: shared_rules[0]: overlaps rule 1 of acme, since both match /a/ of account 111122223333; make them exclusive, or set match: first-match; the other is tenants[0].rules[0] on line 7",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_field(path: Path, text: str | bytes, problem: str) -> None:
    assert problem in problems_of(path, text)


def test_every_mistake_is_told_at_once_in_the_order_of_the_file(path: Path) -> None:
    text = """\
version: 1
tenants:
  - id: acme
    keys: {eu-west-1: alias/x}
    rules:
      - acounts: []
  - id: acme
    keys: {us-east-1: arn:aws:kms:eu-west-1:111122223333:key/x}
    rules:
      - accounts: [111122223333]
        names: [/a]
        names: [/b]
default_tenant: blue
"""
    assert [problem.partition(": ")[2].partition(": ")[0] for problem in problems_of(path, text)] == [
        "tenants[0].keys.eu-west-1",
        "tenants[0].rules[0].acounts",
        "tenants[1].id",
        "tenants[1].keys.us-east-1",
        "tenants[1].rules[0].accounts[0]",
        "tenants[1].rules[0].names",
        "default_tenant",
    ]


def test_a_mistake_behind_an_alias_is_told_where_it_is_written(path: Path) -> None:
    text = "version: 1\nexclude:\n  - &a\n    names: [a b]\n  - *a\n" + ACME.partition("\n")[2]
    assert [problem.partition(":")[0] for problem in problems_of(path, text)] == ["4", "4"]


def test_a_mistake_in_what_a_merge_overrides_is_told_where_it_is_written(path: Path) -> None:
    text = ACME + "exclude:\n  - &a\n    names: [ok]\n  - <<: *a\n    names: [a b]\n"
    assert [problem.partition(":")[0] for problem in problems_of(path, text)] == ["12"]


def test_a_file_that_refers_to_itself_is_refused(path: Path) -> None:
    assert problems_of(path, "version: 1\ntenants: &t\n  - *t\n")


def test_a_file_that_is_not_there_is_told(path: Path) -> None:
    with pytest.raises(TenantFileError, match=r"tenants\.yaml:1: cannot be read: No such file"):
        load_tenant_file(path)


# -- what is worth a warning


def test_a_rule_that_can_never_be_the_first_is_warned_of(path: Path) -> None:
    path.write_text(ACME + BLUE + "match: first-match\n")
    with capture_logs() as logs:
        FileDirectory(path)
    assert [log for log in logs if log["log_level"] == "warning"] == [
        {
            "event": "tenant_rule_never_decides",
            "log_level": "warning",
            "rule": "rule 1 of blue",
            "same_as": "rule 1 of acme",
        }
    ]


# -- the reference


def test_the_reference_has_every_field_and_says_which_are_required() -> None:
    rows = [line.split(" | ") for line in tenant_file_reference().splitlines()[2:]]
    assert all(len(row) == 3 and row[2].rstrip(" |") for row in rows)
    required = {row[0].strip("| `"): row[1].strip() == "yes" for row in rows}
    assert {field for field, is_required in required.items() if is_required} == {
        "version",
        "tenants",
        "tenants[].id",
        "tenants[].keys",
        "tenants[].rules",
        "shared_rules[].name_regex",
    }
    assert tenant_file_reference().count("Fields as above.") == 1
    assert {"default_tenant", "exclude", "tenants[].rules[].tags", "tenants[].exclude[].reason"} < set(required)


# -- the directory


class SteppingClock:
    """A wall clock that a test moves."""

    def __init__(self) -> None:
        self.ms = 1_772_442_847_000

    def now(self) -> float:
        return self.ms / 1000

    def epoch_ms(self) -> int:
        return self.ms


def replace(path: Path, text: str | None) -> None:
    """Put another file in the place of one, at once as a careful writer does; None takes it away."""
    if text is None:
        path.unlink()
        return
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def edit_in_place(path: Path, text: str) -> None:
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # whatever the file system's clock resolves


WITHOUT_TMP: Final = ACME + "exclude:\n  - names: [/tmp/*]\n"
TMP: Final = LogGroup.of("111122223333", "eu-west-1", "/tmp/x")


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
def directory(path: Path, clock: SteppingClock) -> FileDirectory:
    replace(path, ACME)
    return FileDirectory(path, clock=clock, poll_interval_s=0.0)


async def test_the_directory_decides_by_the_file(directory: FileDirectory) -> None:
    assert await directory.decide(TMP, None) == Owned(TenantId("acme"), KEY, "rule 1 of acme")


def test_a_wrong_file_at_the_start_is_an_error(path: Path) -> None:
    replace(path, "version: 1")
    with pytest.raises(TenantFileError, match="tenants: is missing"):
        FileDirectory(path)


async def test_a_change_takes_effect(directory: FileDirectory, path: Path, clock: SteppingClock) -> None:
    version, loaded_at_ms = directory.version, directory.loaded_at_ms
    clock.ms += 60_000
    replace(path, WITHOUT_TMP)
    assert await directory.refresh()
    assert isinstance(await directory.decide(TMP, None), Excluded)
    assert directory.version != version
    assert directory.loaded_at_ms == loaded_at_ms + 60_000


async def test_an_edit_in_place_of_the_same_size_takes_effect(directory: FileDirectory, path: Path) -> None:
    with_blue = ACME.replace("acme", "blue")
    assert len(with_blue) == len(ACME)
    edit_in_place(path, with_blue)
    assert await directory.refresh()
    assert await directory.decide(TMP, None) == Owned(TenantId("blue"), KEY, "rule 1 of blue")


async def test_nothing_is_loaded_while_nothing_changes(directory: FileDirectory, clock: SteppingClock) -> None:
    loaded_at_ms = directory.loaded_at_ms
    clock.ms += 60_000
    assert not await directory.refresh()
    assert directory.loaded_at_ms == loaded_at_ms


async def test_a_broken_change_is_refused_once_and_the_rules_stay_in_force(
    directory: FileDirectory, path: Path
) -> None:
    version = directory.version
    replace(path, WITHOUT_TMP + "oops: 1\n")
    with capture_logs() as logs:
        assert not await directory.refresh()
        assert not await directory.refresh()
    assert isinstance(await directory.decide(TMP, None), Owned)
    assert directory.version == version
    assert directory.last_error is not None
    [log] = logs
    assert (log["event"], log["log_level"]) == ("tenant_file_refused", "error")
    assert log["problems"] == [
        "10: oops: is no field here; there are version, match, ignore_tag, organizational_units, tenants, shared_rules, default_tenant, exclude"
    ]


async def test_a_mended_file_takes_effect_and_clears_the_error(directory: FileDirectory, path: Path) -> None:
    replace(path, "oops")
    await directory.refresh()
    replace(path, WITHOUT_TMP)
    assert await directory.refresh()
    assert directory.last_error is None
    assert isinstance(await directory.decide(TMP, None), Excluded)


async def test_a_file_that_goes_away_leaves_its_rules_in_force_until_it_is_back(
    directory: FileDirectory, path: Path
) -> None:
    replace(path, None)
    assert not await directory.refresh()
    assert "cannot be read" in str(directory.last_error)
    assert isinstance(await directory.decide(TMP, None), Owned)
    replace(path, WITHOUT_TMP)
    assert await directory.refresh()


async def test_a_swap_of_links_is_noticed_as_the_kubelet_does_it(tmp_path: Path) -> None:
    for version, text in (("..1", ACME), ("..2", WITHOUT_TMP)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "tenants.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "tenants.yaml").symlink_to("..data/tenants.yaml")
    directory = FileDirectory(tmp_path / "tenants.yaml")
    (tmp_path / "..data_tmp").symlink_to("..2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")  # noqa: PTH105  the call that the kubelet makes
    assert await directory.refresh()
    assert isinstance(await directory.decide(TMP, None), Excluded)


async def test_watching_notices_changes_one_after_the_other(directory: FileDirectory, path: Path) -> None:
    watching = asyncio.create_task(directory.watch())
    try:
        async with asyncio.timeout(10):
            for text in (WITHOUT_TMP, "oops", ACME + "# again\n"):
                before = directory.version, directory.last_error
                replace(path, text)
                while (directory.version, directory.last_error) == before:
                    await asyncio.sleep(0)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    assert watching.cancelled()
    assert directory.last_error is None


@pytest.mark.parametrize(
    "text", ["version: !!bool maybe", 'version: !!int ""', "version: 2026-13-32", "? [a]\n: 1", "version: !!set 1"]
)
def test_a_value_that_yaml_itself_chokes_on_is_a_problem_of_the_file(tmp_path, text):
    path = tmp_path / "tenants.yaml"
    path.write_text(text)
    with pytest.raises(TenantFileError, match=r"tenants\.yaml:1"):
        load_tenant_file(path)
