from typing import Any

import pytest

from service.sandbox.aws.policy import (
    PolicyRequest,
    default_key_policy,
    is_allowed,
    log_group_arn,
    logs_key_policy,
    may_encrypt_log_group,
)

ACCOUNT = "111122223333"
OTHER_ACCOUNT = "444455556666"
REGION = "eu-west-1"
ARN = log_group_arn(ACCOUNT, REGION, "/app/a")


def statement(**changes: Any) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Principal": {"Service": f"logs.{REGION}.amazonaws.com"},
        "Action": "kms:*",
        "Resource": "*",
    } | changes


def may_encrypt(*statements: dict[str, Any], arn: str = ARN) -> bool:
    return may_encrypt_log_group({"Statement": list(statements)}, region=REGION, arn=arn)


def test_the_policy_for_logs_covers_every_log_group_of_its_account_and_region_and_no_other():
    policy = logs_key_policy(ACCOUNT, REGION)

    assert may_encrypt_log_group(policy, region=REGION, arn=ARN)
    assert not may_encrypt_log_group(policy, region=REGION, arn=log_group_arn(OTHER_ACCOUNT, REGION, "/app/a"))
    assert not may_encrypt_log_group(policy, region="us-east-1", arn=log_group_arn(ACCOUNT, "us-east-1", "/app/a"))


@pytest.mark.parametrize(
    ("region", "service", "partition"),
    [
        ("cn-north-1", "logs.cn-north-1.amazonaws.com.cn", "aws-cn"),
        ("us-gov-west-1", "logs.us-gov-west-1.amazonaws.com", "aws-us-gov"),
    ],
)
def test_the_policy_for_logs_fits_the_partition(region, service, partition):
    logs = logs_key_policy(ACCOUNT, region)["Statement"][-1]

    assert logs["Principal"] == {"Service": service}
    assert [arn.split(":")[:3] for arn in logs["Condition"]["ArnLike"].popitem()[1]] == [["arn", partition, "logs"]]


def test_the_policy_for_a_key_in_another_account_lets_both_accounts_describe_it():
    policy = logs_key_policy(ACCOUNT, REGION, key_account=OTHER_ACCOUNT)

    assert may_encrypt_log_group(policy, region=REGION, arn=ARN)
    for account in (ACCOUNT, OTHER_ACCOUNT):
        root = frozenset({("AWS", f"arn:aws:iam::{account}:root")})
        assert is_allowed(policy, PolicyRequest(principals=root, action="kms:DescribeKey"))


def test_the_policy_that_kms_gives_a_key_does_not_let_logs_use_it():
    assert not may_encrypt_log_group(default_key_policy(ACCOUNT, REGION), region=REGION, arn=ARN)


def test_a_single_statement_need_not_be_in_a_list():
    assert may_encrypt_log_group({"Statement": statement()}, region=REGION, arn=ARN)


@pytest.mark.parametrize(
    "principal", [{"Service": "logs.us-east-1.amazonaws.com"}, {"Service": "logs.amazonaws.com"}, {"Service": []}, None]
)
def test_a_principal_other_than_the_regions_logs_is_not_logs(principal):
    assert not may_encrypt(statement(Principal=principal))


@pytest.mark.parametrize("principal", ["*", {"AWS": "*"}, {"Service": ["a", f"logs.{REGION}.amazonaws.com"]}])
def test_principals_that_include_logs(principal):
    assert may_encrypt(statement(Principal=principal))


@pytest.mark.parametrize(
    ("action", "allowed"),
    [
        (["kms:Encrypt*", "kms:Decrypt*", "kms:ReEncrypt*", "kms:GenerateDataKey*"], True),
        ("KMS:*", True),
        ("*", True),
        (["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey"], False),
        ("kms:Describe*", False),
        ("kms:?ncrypt", False),
    ],
)
def test_all_actions_that_logs_needs_must_be_allowed(action, allowed):
    assert may_encrypt(statement(Action=action)) is allowed


@pytest.mark.parametrize(
    ("operator", "pattern", "allowed"),
    [
        ("ArnEquals", ARN, True),
        ("ArnLike", f"arn:aws:logs:{REGION}:{ACCOUNT}:*", True),
        ("ArnEquals", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/app/*", True),
        ("ArnLike", f"{ARN}:*", False),
        ("ArnLike", "arn:aws:logs:*", False),
        ("StringEquals", ARN, True),
        ("StringEquals", f"arn:aws:logs:{REGION}:{ACCOUNT}:*", False),
        ("StringLike", "arn:aws:logs:*", True),
        ("StringLike", "arn:aws:logs:us-*", False),
        ("ArnNotLike", ARN, False),
        ("StringNotEquals", "another", True),
        ("StringNotLike", "arn:*", False),
    ],
)
def test_conditions_on_the_encryption_context(operator, pattern, allowed):
    condition = {operator: {"kms:EncryptionContext:aws:logs:arn": pattern}}
    assert may_encrypt(statement(Condition=condition)) is allowed


def test_one_of_several_wanted_values_is_enough_and_every_condition_counts():
    key = "kms:encryptioncontext:AWS:logs:arn"
    assert may_encrypt(statement(Condition={"ArnEquals": {key: ["arn:aws:logs:x", ARN]}}))
    assert not may_encrypt(statement(Condition={"ArnEquals": {key: ARN}, "StringEquals": {key: "x"}}))


@pytest.mark.parametrize(
    ("operator", "wanted", "allowed"),
    [
        ("StringEquals", "x", False),
        ("StringNotEquals", "x", True),
        ("StringEqualsIfExists", "x", True),
        ("Null", "true", True),
        ("Null", "false", False),
    ],
)
def test_a_context_key_that_the_call_lacks(operator, wanted, allowed):
    assert may_encrypt(statement(Condition={operator: {"aws:SourceVpc": wanted}})) is allowed


def test_deny_wins_over_allow():
    assert not may_encrypt(statement(), statement(Effect="Deny", Action="kms:GenerateDataKey"))
    assert may_encrypt(statement(), statement(Effect="Deny", Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:root"}))


def test_what_is_excluded_by_name_covers_the_rest():
    assert may_encrypt(statement(NotAction="s3:*"))
    assert not may_encrypt(statement(), statement(Effect="Deny", NotPrincipal={"AWS": ACCOUNT}))


def test_a_condition_that_is_not_evaluated_is_refused_and_not_guessed():
    with pytest.raises(NotImplementedError, match="NumericLessThan"):
        may_encrypt(statement(Condition={"NumericLessThan": {"aws:MultiFactorAuthAge": "60"}}))


def test_an_empty_policy_allows_nothing():
    assert not may_encrypt_log_group({}, region=REGION, arn=ARN)


@pytest.mark.parametrize(
    ("resource", "allowed"),
    [
        ({"Resource": "*"}, True),
        ({"Resource": ["a", "arn:aws:kms:*:*:key/1"]}, True),
        ({"Resource": "arn:aws:kms:*:*:key/2"}, False),
        ({"NotResource": "arn:aws:kms:*:*:key/2"}, True),
        ({"NotResource": "*"}, False),
    ],
)
def test_a_statement_is_about_its_resource(resource, allowed):
    about = {"Effect": "Allow", "Principal": "*", "Action": "kms:*"} | resource
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1"
    assert may_encrypt_log_group({"Statement": about}, region=REGION, arn=ARN, key=key) is allowed


def test_a_roles_own_policy_names_nobody_and_means_its_role():
    policy = {"Statement": {"Effect": "Allow", "Action": "logs:*", "Resource": "arn:aws:logs:*:*:log-group:/app/*"}}
    assert is_allowed(policy, PolicyRequest(principals=None, action="logs:AssociateKmsKey", resource=ARN))
    assert not is_allowed(
        policy, PolicyRequest(principals=None, action="logs:AssociateKmsKey", resource="arn:aws:logs:x")
    )
    assert not is_allowed(policy, PolicyRequest(principals=frozenset(), action="logs:AssociateKmsKey", resource=ARN))
