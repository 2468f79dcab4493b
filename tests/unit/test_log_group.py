import json
import sys
from pathlib import Path

import botocore
import pytest

from service.domain.log_group import (
    InvalidIdentityError,
    Lane,
    LogGroup,
    account_id,
    dns_suffix_of,
    key_account,
    key_arn,
    key_arn_in,
    key_ref,
    key_region,
    partition_of,
    region_name,
)

ACCOUNT, REGION = "111122223333", "eu-west-1"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0d9ac4b8-6f0e-4a1c-9d3a-7d1f3b1c2a55"


def regions_of_botocore() -> list[tuple[str, str]]:
    partitions = json.loads((Path(botocore.__file__).parent / "data" / "partitions.json").read_text(encoding="utf-8"))
    return [
        (region, partition["id"])
        for partition in partitions["partitions"]
        for region in partition["regions"]
        if not region.endswith("-global")
    ]


def test_botocore_lists_regions():
    assert len(regions_of_botocore()) > 40


def test_services_have_the_dns_suffix_that_botocore_knows_for_the_partition():
    partitions = json.loads((Path(botocore.__file__).parent / "data" / "partitions.json").read_text(encoding="utf-8"))
    suffixes = {each["id"]: each["outputs"]["dnsSuffix"] for each in partitions["partitions"]}
    assert {partition_of(r): dns_suffix_of(r) for r, _ in regions_of_botocore()}.items() <= suffixes.items()


@pytest.mark.parametrize(("region", "partition"), regions_of_botocore())
def test_every_region_that_botocore_knows_is_accepted_with_its_partition(region: str, partition: str):
    group = LogGroup.of(ACCOUNT, region, "app")
    assert partition_of(region) == partition
    assert group.arn == f"arn:{partition}:logs:{region}:{ACCOUNT}:log-group:app"
    assert LogGroup.from_arn(group.arn) == group


@pytest.mark.parametrize("name", ["a", "a" * 512, "/aws/lambda/f", "#x._-", "aws/reserved", "UPPER/lower.9"])
def test_a_name_that_aws_allows_is_accepted(name: str):
    assert LogGroup.of(ACCOUNT, REGION, name).name == name


@pytest.mark.parametrize(
    "name", ["", "a" * 513, "a b", "a:b", "a\n", "ä", "a*", "\ud800", "a\x00", None, 7, b"a", ["a"], True]
)
def test_any_other_name_is_refused_and_named(name: object):
    with pytest.raises(InvalidIdentityError) as refused:
        LogGroup.of(ACCOUNT, REGION, name)
    assert refused.value.field == "log_group"


@pytest.mark.parametrize(
    "account",
    ["", "11112222333", "1111222233334", "11112222333a", "111122223333\n", "١١١١٢٢٢٢٣٣٣٣", 111122223333, None],
)
def test_an_account_id_is_twelve_ascii_digits_in_a_string(account: object):
    with pytest.raises(InvalidIdentityError) as refused:
        LogGroup.of(account, REGION, "app")
    assert refused.value.field == "account"


@pytest.mark.parametrize(
    "region",
    ["", "eu-west", "eu-west-1\n", "EU-WEST-1", "eu_west_1", "e-west-1", "eu--1", "eu-west-123", "-west-1", 1, None],
)
def test_a_region_has_the_form_of_one(region: object):
    with pytest.raises(InvalidIdentityError) as refused:
        LogGroup.of(ACCOUNT, region, "app")
    assert refused.value.field == "region"


def test_the_text_of_an_error_stays_short_whatever_the_value():
    deep: list[object] = []
    for _ in range(sys.getrecursionlimit() * 2):
        deep = [deep]
    for value in ("x" * 1_000_000, {"k" * 1_000_000: 1}, list(range(100_000)), deep):
        with pytest.raises(InvalidIdentityError) as refused:
            LogGroup.of(value, REGION, "app")
        assert len(str(refused.value)) < 200


def test_a_log_group_reads_its_arn_with_and_without_the_trailing_star():
    group = LogGroup.of(ACCOUNT, REGION, "/aws/lambda/f")
    assert LogGroup.from_arn(group.arn) == group
    assert LogGroup.from_arn(f"{group.arn}:*") == group


@pytest.mark.parametrize(
    ("arn", "field"),
    [
        ("", "log_group_arn"),
        (None, "log_group_arn"),
        (f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:app:log-stream:s", "log_group_arn"),
        (f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:app:*\n", "log_group_arn"),
        (f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:", "log_group_arn"),
        (f"arn:aws:s3:{REGION}:{ACCOUNT}:log-group:app", "log_group_arn"),
        (f"arn:aws:logs:{REGION}:1:log-group:app", "log_group_arn"),
        (f"arn:aws:logs:nowhere:{ACCOUNT}:log-group:app", "region"),
        (f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:a b", "log_group"),
    ],
)
def test_what_is_no_log_group_arn_is_refused(arn: object, field: str):
    with pytest.raises(InvalidIdentityError) as refused:
        LogGroup.from_arn(arn)
    assert refused.value.field == field


def test_log_groups_of_one_account_and_region_share_a_lane():
    lane = LogGroup.of(ACCOUNT, REGION, "a").lane
    assert lane == LogGroup.of(ACCOUNT, REGION, "b").lane == Lane(account_id(ACCOUNT), region_name(REGION))
    assert lane != LogGroup.of(ACCOUNT, "us-east-1", "a").lane
    assert lane != LogGroup.of("444455556666", REGION, "a").lane
    assert str(lane) == f"{ACCOUNT}:{REGION}"


def test_account_ids_and_regions_are_shared_between_log_groups():
    def read() -> LogGroup:
        return LogGroup.of(ACCOUNT.encode().decode(), REGION.encode().decode(), "a")

    first, second = read(), read()
    assert first.account is second.account
    assert first.region is second.region


@pytest.mark.parametrize(
    "arn", [KEY, KEY.replace("key/", "key/mrk-"), KEY.replace(":aws:", ":aws-cn:"), KEY.replace(":aws:", ":aws-eusc:")]
)
def test_a_key_is_given_as_its_arn(arn: str):
    assert key_arn(arn) == arn


@pytest.mark.parametrize(
    "value",
    [
        "",
        None,
        "0d9ac4b8-6f0e-4a1c-9d3a-7d1f3b1c2a55",
        "alias/app",
        f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/app",
        f"{KEY}\n",
        f"{KEY}/x",
        KEY + "a" * 256,
        KEY.replace(ACCOUNT, "1"),
    ],
)
def test_anything_else_is_no_key(value: object):
    with pytest.raises(InvalidIdentityError) as refused:
        key_arn(value)
    assert refused.value.field == "key"


def test_a_key_tells_its_region():
    assert key_region(key_arn(KEY)) == REGION


ALIAS = f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/acme/logs"


def test_a_key_may_be_meant_by_its_arn_or_by_an_aliass():
    for ref in (KEY, ALIAS):
        assert key_ref(ref) == ref
        assert key_region(key_ref(ref)) == REGION
        assert key_account(key_ref(ref)) == ACCOUNT
    assert key_arn_in(key_ref(KEY)) == KEY
    assert key_arn_in(key_ref(ALIAS)) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        None,
        "alias/acme",
        f"{ALIAS}\n",
        ALIAS + "a" * 256,
        ALIAS.replace("acme", "a b"),
        f"arn:aws:kms:{REGION}:1:alias/x",
    ],
)
def test_anything_else_means_no_key(value: object):
    with pytest.raises(InvalidIdentityError, match="alias's ARN") as refused:
        key_ref(value)
    assert refused.value.field == "key"
