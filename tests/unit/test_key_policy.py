import json
from typing import Any

import pytest

from service.domain.key_policy import (
    LOGS_CONTEXT_KEY,
    PolicyFinding,
    PolicyVerdict,
    logs_principal,
    logs_statement,
    read_key_policy,
)
from service.domain.log_group import KeyArn, LogGroup

GROUP = LogGroup.of("111122223333", "eu-west-1", "/app/a")
KEY = KeyArn("arn:aws:kms:eu-west-1:111122223333:key/1")
LOGS = "logs.eu-west-1.amazonaws.com"
ALLOWS, DENIES = PolicyVerdict.ALLOWS, PolicyVerdict.DENIES
MISSES, CANNOT_TELL = PolicyVerdict.MISSES, PolicyVerdict.CANNOT_TELL
ROOT = {
    "Effect": "Allow",
    "Principal": {"AWS": "arn:aws:iam::111122223333:root"},
    "Action": "kms:*",
    "Resource": "*",
}


def statement(**changes: Any) -> dict[str, Any]:
    fields = {"Effect": "Allow", "Principal": {"Service": LOGS}, "Action": "kms:*", "Resource": "*"} | changes
    return {name: value for name, value in fields.items() if value is not None}


def read(*statements: Any, log_group: LogGroup = GROUP) -> PolicyFinding:
    return read_key_policy(json.dumps({"Statement": list(statements)}), key=KEY, log_group=log_group)


def verdict(**changes: Any) -> PolicyVerdict:
    return read(ROOT, statement(**changes)).verdict


def deny(**changes: Any) -> PolicyVerdict:
    return read(statement(), statement(Effect="Deny", **changes)).verdict


@pytest.mark.parametrize(
    ("region", "principal", "partition"),
    [
        ("eu-west-1", "logs.eu-west-1.amazonaws.com", "aws"),
        ("us-gov-west-1", "logs.us-gov-west-1.amazonaws.com", "aws-us-gov"),
        ("cn-north-1", "logs.cn-north-1.amazonaws.com.cn", "aws-cn"),
        ("us-iso-east-1", "logs.us-iso-east-1.c2s.ic.gov", "aws-iso"),
        ("us-isob-east-1", "logs.us-isob-east-1.sc2s.sgov.gov", "aws-iso-b"),
        ("eu-isoe-west-1", "logs.eu-isoe-west-1.cloud.adc-e.uk", "aws-iso-e"),
        ("us-isof-south-1", "logs.us-isof-south-1.csp.hci.ic.gov", "aws-iso-f"),
        ("eusc-de-east-1", "logs.eusc-de-east-1.amazonaws.eu", "aws-eusc"),
    ],
)
def test_the_statement_that_is_proposed_is_right_in_every_partition_and_for_its_account_and_region_alone(
    region, principal, partition
):
    group = LogGroup.of("111122223333", region, "/app/a")
    proposed = logs_statement(group.lane)
    assert proposed["Principal"] == {"Service": principal}
    assert proposed["Condition"]["ArnLike"][LOGS_CONTEXT_KEY].startswith(f"arn:{partition}:logs:{region}:")
    assert read(proposed, log_group=group).verdict is ALLOWS
    assert read(proposed, log_group=LogGroup.of("444455556666", region, "/app/a")).verdict is MISSES
    assert read(proposed, log_group=LogGroup.of("111122223333", "ap-south-1", "/app/a")).verdict is MISSES


def test_the_policy_that_kms_gives_a_key_misses_every_action():
    finding = read(ROOT)
    assert finding.verdict is MISSES
    assert "kms:Encrypt, kms:Decrypt, kms:ReEncryptFrom, kms:ReEncryptTo, kms:GenerateDataKey" in finding.detail
    assert LOGS in finding.detail
    assert GROUP.arn in finding.detail
    assert "statement" not in finding.detail  # the account's own users are no near miss


def test_the_remedy_grants_no_more_than_what_is_missing():
    finding = read(statement(Action=["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey*"]))
    assert json.loads(finding.remedy)["Action"] == ["kms:ReEncrypt*"]


@pytest.mark.parametrize(
    ("principal", "expected"),
    [
        ({"Service": LOGS}, ALLOWS),
        ({"Service": ["ec2.amazonaws.com", LOGS]}, ALLOWS),
        ("*", ALLOWS),
        ({"AWS": "*"}, ALLOWS),
        ({"AWS": ["arn:aws:iam::1:root", "*"]}, ALLOWS),
        ({"Service": "logs.us-east-1.amazonaws.com"}, MISSES),
        ({"Service": "logs.eu-west-1.amazonaws.com.cn"}, MISSES),
        ({"AWS": "111122223333"}, MISSES),
        ({"AWS": LOGS}, MISSES),
        ({"Federated": LOGS, "CanonicalUser": LOGS}, MISSES),
        ({"Service": []}, MISSES),
        ({"Service": "logs.amazonaws.com"}, CANNOT_TELL),
        ({"Service": "logs.*.amazonaws.com"}, CANNOT_TELL),
        ({"Service": "*"}, CANNOT_TELL),
        ({"Planet": "*"}, CANNOT_TELL),
        ({"Service": 7}, CANNOT_TELL),
        ("everybody", CANNOT_TELL),
        (["*"], CANNOT_TELL),
        (None, CANNOT_TELL),
    ],
)
def test_principals(principal, expected):
    assert verdict(Principal=principal) is expected


def test_the_name_that_is_right_elsewhere_may_be_right_in_china_too():
    group = LogGroup.of("111122223333", "cn-north-1", "/app/a")
    for name in ("logs.cn-north-1.amazonaws.com", "logs.amazonaws.com.cn"):
        assert read(statement(Principal={"Service": name}), log_group=group).verdict is CANNOT_TELL


@pytest.mark.parametrize(
    ("excepted", "expected"),
    [
        ({"AWS": "arn:aws:iam::111122223333:root"}, DENIES),
        ({"Service": LOGS}, ALLOWS),
        ("*", ALLOWS),
        ({"Service": "logs.amazonaws.com"}, CANNOT_TELL),
    ],
)
def test_a_denial_to_all_but_some(excepted, expected):
    assert deny(Principal=None, NotPrincipal=excepted) is expected


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("kms:*", ALLOWS),
        ("KMS:*", ALLOWS),
        ("*", ALLOWS),
        (["kms:Encrypt*", "kms:Decrypt*", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"], ALLOWS),
        (["kms:encrypt", "kms:decrypt", "kms:reencryptfrom", "kms:reencryptto", "kms:generatedatakey"], ALLOWS),
        (["kms:?ncrypt", "kms:?ecrypt", "kms:ReEncrypt*", "kms:G*Key"], ALLOWS),
        (["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKeyPair"], MISSES),
        (["kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:GenerateDataKey"], MISSES),
        ("kms:Describe*", MISSES),
        ("logs:*", MISSES),
        ([], MISSES),
        (None, CANNOT_TELL),
        ([["kms:*"]], CANNOT_TELL),
    ],
)
def test_actions(action, expected):
    assert verdict(Action=action) is expected


def test_all_actions_but_some():
    assert verdict(Action=None, NotAction="kms:ScheduleKeyDeletion") is ALLOWS
    assert verdict(Action=None, NotAction=["s3:*", "kms:Decrypt"]) is MISSES
    assert deny(Action=None, NotAction="kms:*") is ALLOWS


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("*", ALLOWS),
        (KEY, ALLOWS),
        ("arn:aws:kms:*:111122223333:key/*", ALLOWS),
        (["arn:aws:s3:::bucket", "*"], ALLOWS),
        ("arn:aws:kms:eu-west-1:111122223333:key/2", MISSES),
        ("arn:aws:kms:*:${aws:PrincipalAccount}:key/*", CANNOT_TELL),
        (None, CANNOT_TELL),
    ],
)
def test_resources(resource, expected):
    assert verdict(Resource=resource) is expected


def test_all_resources_but_some():
    assert verdict(Resource=None, NotResource="arn:aws:s3:::*") is ALLOWS
    assert verdict(Resource=None, NotResource=KEY) is MISSES


@pytest.mark.parametrize(
    ("operator", "wanted", "expected"),
    [
        ("ArnEquals", GROUP.arn, ALLOWS),
        ("ArnLike", "arn:aws:logs:eu-west-1:111122223333:log-group:*", ALLOWS),
        ("ArnLike", "arn:aws:logs:eu-west-1:111122223333:*", ALLOWS),
        ("ArnLike", "arn:aws:logs:*:*:log-group:/app/?", ALLOWS),
        ("ArnEquals", ["arn:aws:logs:x:y:z", "arn:*:logs:*:111122223333:*/a"], ALLOWS),
        ("ArnLike", f"{GROUP.arn}:*", MISSES),
        ("ArnLike", "arn:aws:logs:eu-west-1:444455556666:*", MISSES),
        ("ArnLike", "arn:aws:logs:us-*:111122223333:*", MISSES),
        ("ArnEquals", "log-group", MISSES),
        ("ArnLike", "arn:aws:logs:*", CANNOT_TELL),
        ("ArnLike", "arn:aws:logs:*:${aws:PrincipalAccount}:*", CANNOT_TELL),
        ("StringEquals", GROUP.arn, ALLOWS),
        ("StringEquals", "arn:aws:logs:eu-west-1:111122223333:*", MISSES),
        ("StringEqualsIgnoreCase", GROUP.arn.upper(), ALLOWS),
        ("StringLike", "arn:aws:logs:*", ALLOWS),
        ("StringLike", "arn:aws:logs:us-*", MISSES),
        ("StringNotEquals", "another", ALLOWS),
        ("StringNotLike", ["another", "arn:*"], MISSES),
        ("ArnNotLike", GROUP.arn, MISSES),
        ("ArnLikeIfExists", GROUP.arn, ALLOWS),
        ("ForAnyValue:ArnLike", GROUP.arn, ALLOWS),
        ("ForAllValues:StringLike", "arn:aws:logs:us-*", MISSES),
        ("ForAnyValue:StringEqualsIfExists", "another", MISSES),
        ("Null", "false", ALLOWS),
        ("Null", False, ALLOWS),
        ("Null", True, MISSES),
        ("Null", ["true", "false"], CANNOT_TELL),
        ("Null", [{}], CANNOT_TELL),
        ("StringMatches", GROUP.arn, CANNOT_TELL),
        ("NotStringEquals", "another", CANNOT_TELL),
        ("NumericLessThan", 7, CANNOT_TELL),
        ("StringEquals", {"nested": "x"}, CANNOT_TELL),
        ("StringEquals", [], MISSES),
    ],
)
def test_conditions_on_the_encryption_context(operator, wanted, expected):
    for name in (LOGS_CONTEXT_KEY, LOGS_CONTEXT_KEY.upper()):
        assert verdict(Condition={operator: {name: wanted}}) is expected


@pytest.mark.parametrize(
    ("operator", "key", "wanted", "expected"),
    [
        ("StringEquals", "aws:SourceAccount", "111122223333", CANNOT_TELL),
        ("StringEquals", "aws:SourceAccount", "444455556666", MISSES),
        ("StringEqualsIfExists", "aws:SourceAccount", "111122223333", ALLOWS),
        ("StringEqualsIfExists", "aws:SourceAccount", "444455556666", CANNOT_TELL),
        ("StringNotEquals", "aws:SourceAccount", "444455556666", ALLOWS),
        ("ForAllValues:StringEquals", "aws:SourceAccount", "111122223333", ALLOWS),
        ("ForAnyValue:StringEquals", "aws:SourceAccount", "444455556666", MISSES),
        ("Null", "aws:SourceAccount", "true", CANNOT_TELL),
        ("ArnLike", "aws:SourceArn", "arn:aws:logs:eu-west-1:111122223333:*", CANNOT_TELL),
        ("ArnLike", "aws:SourceArn", f"{GROUP.arn}:*", CANNOT_TELL),
        ("ArnLike", "aws:SourceArn", "arn:aws:logs:eu-west-1:444455556666:*", MISSES),
        ("StringEquals", "kms:ViaService", LOGS, CANNOT_TELL),
        ("StringEquals", "kms:ViaService", "ec2.eu-west-1.amazonaws.com", MISSES),
        ("Bool", "aws:PrincipalIsAWSService", "true", ALLOWS),
        ("Bool", "aws:PrincipalIsAWSService", False, MISSES),
        ("StringEquals", "aws:PrincipalOrgID", "o-1", CANNOT_TELL),
        ("StringEquals", "kms:CallerAccount", "111122223333", CANNOT_TELL),
        ("StringEqualsIfExists", "aws:Anything", "x", CANNOT_TELL),
    ],
)
def test_conditions_on_other_keys(operator, key, wanted, expected):
    assert verdict(Condition={operator: {key: wanted}}) is expected


def test_every_condition_counts_and_one_that_fails_decides_whatever_is_unknown():
    unknown = {"StringEquals": {"aws:PrincipalOrgID": "o-1"}}
    assert verdict(Condition={"ArnLike": {LOGS_CONTEXT_KEY: GROUP.arn}} | unknown) is CANNOT_TELL
    assert verdict(Condition={"ArnLike": {LOGS_CONTEXT_KEY: "arn:aws:logs:x:y:z"}} | unknown) is MISSES


@pytest.mark.parametrize("condition", ["x", [], {"StringEquals": "x"}, {"StringEquals": ["x"]}])
def test_a_condition_that_cannot_be_read(condition):
    assert verdict(Condition=condition) is CANNOT_TELL


def test_a_denial_wins_and_is_told_with_its_name_and_a_way_out():
    finding = read(statement(), statement(Sid="OnlyUs", Effect="Deny", Action="kms:De*", Principal="*"))
    assert finding.verdict is DENIES
    assert 'statement 2 ("OnlyUs") denies kms:Decrypt' in finding.detail
    assert '"aws:PrincipalIsAWSService": "false"' in finding.detail
    assert deny(Principal="*", Condition={"BoolIfExists": {"aws:PrincipalIsAWSService": "false"}}) is ALLOWS


def test_the_usual_fence_round_an_organisation_lets_aws_services_through():
    fence = {"StringNotEqualsIfExists": {"aws:PrincipalOrgID": "o-1"}}
    assert deny(Principal="*", Condition=fence) is CANNOT_TELL
    assert deny(Principal="*", Condition=fence | {"Bool": {"aws:PrincipalIsAWSService": "false"}}) is ALLOWS


def test_a_denial_to_somebody_else_or_of_something_else_is_none():
    assert deny(Principal={"AWS": "arn:aws:iam::111122223333:root"}) is ALLOWS
    assert deny(Principal="*", Action="kms:ScheduleKeyDeletion") is ALLOWS


def test_what_is_missing_is_said_before_what_cannot_be_told():
    doubtful = statement(Effect="Deny", Condition={"StringEquals": {"aws:Anything": "x"}})
    assert read(ROOT, doubtful).verdict is MISSES
    assert read(statement(), doubtful).verdict is CANNOT_TELL
    assert read(statement(), doubtful).remedy == ""  # an Allow would not help


def test_a_near_miss_is_told_with_what_it_lacks():
    other_region = logs_statement(LogGroup.of("111122223333", "us-east-1", "/app/a").lane)
    detail = read(ROOT, other_region).detail
    assert 'statement 2 ("CloudWatchLogs") would, but its Principal {"Service": "logs.us-east-1' in detail
    assert "ArnLike" in read(logs_statement(LogGroup.of("444455556666", "eu-west-1", "/app/a").lane)).detail


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "7", '"x"', "[]", "[" * 100_000, '{"Statement": ' + "[" * 20_000 + "]" * 20_000 + "}", " " * 40_000,
        json.dumps({"Statement": [ROOT] * 300}), '{"Statement": ' + "1" * 5_000 + "}",
    ],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_policy_or_too_large_for_one_cannot_be_told(text):
    assert read_key_policy(text, key=KEY, log_group=GROUP).verdict is CANNOT_TELL


@pytest.mark.parametrize("odd", [7, "x", None, [], {}, {"Effect": "Perhaps"}])
def test_a_statement_that_is_none_may_say_anything(odd):
    assert read(statement(), odd).verdict is CANNOT_TELL


def test_a_single_statement_need_not_be_in_a_list_and_an_empty_policy_allows_nothing():
    assert read_key_policy(json.dumps({"Statement": statement()}), key=KEY, log_group=GROUP).verdict is ALLOWS
    assert read_key_policy("{}", key=KEY, log_group=GROUP).verdict is MISSES


def test_many_stars_take_no_exponential_time():
    stars = "*a" * 200 + "b"
    actions = ["kms:" + "?*" * 10 + "q" for _ in range(300)]
    assert verdict(Condition={"StringLike": {LOGS_CONTEXT_KEY: [stars] * 50}}) is MISSES
    assert verdict(Action=actions) is MISSES


def test_what_is_shown_of_a_tenants_text_is_short_and_ascii():
    principal = {"Service": ["logs.\ud800\n\x1b[31m" + "x" * 5_000]}
    detail = read(statement(Sid="\u202eSid\n" * 100, Principal=principal)).detail
    assert detail.isascii()
    assert detail.isprintable()
    assert len(detail) < 1_000


def test_the_principal_of_logs_is_the_regions_own():
    assert logs_principal("eu-west-1") == LOGS
