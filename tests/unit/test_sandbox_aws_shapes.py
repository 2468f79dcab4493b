import pytest

from service.sandbox.aws.errors import AwsError
from service.sandbox.aws.shapes import check_request, is_operation


def refusal(operation: str, params: object) -> str:
    with pytest.raises(AwsError) as raised:
        check_request("logs", operation, params, error_code="InvalidParameterException")
    assert raised.value.code == "InvalidParameterException"
    return raised.value.message


NAME_PATTERN = r"Member must satisfy regular expression pattern: [\.\-_/#A-Za-z0-9]+"


@pytest.mark.parametrize(
    ("params", "value", "member", "constraint"),
    [
        ({}, "null", "kmsKeyId", "Member must not be null"),
        ({"kmsKeyId": None}, "null", "kmsKeyId", "Member must not be null"),
        ({"kmsKeyId": 5}, "'5'", "kmsKeyId", "Member must be of type string"),
        ({"kmsKeyId": "k", "key": "x"}, "'x'", "key", "Member is not known"),
        ({"kmsKeyId": "k" * 257}, f"'{'k' * 257}'", "kmsKeyId", "Member must have length less than or equal to 256"),
        ({"kmsKeyId": "k", "logGroupName": "a b"}, "'a b'", "logGroupName", NAME_PATTERN),
        ({"kmsKeyId": "k", "logGroupName": "a\n"}, "'a\n'", "logGroupName", NAME_PATTERN),
    ],
)
def test_a_request_that_breaks_one_rule(params, value, member, constraint):
    expected = f"1 validation error detected: Value {value} at '{member}' failed to satisfy constraint: {constraint}"
    assert refusal("AssociateKmsKey", params) == expected


def test_every_broken_rule_is_named():
    message = refusal("AssociateKmsKey", {"logGroupName": ""})

    assert message.startswith("3 validation errors detected: ")
    assert "at 'kmsKeyId'" in message
    assert "length greater than or equal to 1" in message


def test_numbers_lists_and_maps_are_checked_too():
    assert "value less than or equal to 50" in refusal("DescribeLogGroups", {"limit": 51})
    assert "must be of type integer" in refusal("DescribeLogGroups", {"limit": True})
    assert "length less than or equal to 50" in refusal("DescribeLogGroups", {"logGroupIdentifiers": ["a"] * 51})
    assert "'logGroupIdentifiers.2.member'" in refusal("DescribeLogGroups", {"logGroupIdentifiers": ["a", "b c"]})
    assert "'tags.a.value'" in refusal("CreateLogGroup", {"logGroupName": "a", "tags": {"a": "x" * 257}})


@pytest.mark.parametrize(
    ("operation", "params"),
    [
        ("AssociateKmsKey", {"kmsKeyId": "k", "logGroupName": "/app/#1"}),
        ("DisassociateKmsKey", {}),
        ("DescribeLogGroups", {"logGroupIdentifiers": ["a"] * 50, "limit": 50, "nextToken": None}),
        ("CreateLogGroup", {"logGroupName": "a", "tags": {"Größe": "ja"}, "logGroupClass": "A_NEWER_ONE"}),
    ],
)
def test_good_requests_pass(operation, params):
    check_request("logs", operation, params, error_code="InvalidParameterException")


def test_operations_are_known_by_name():
    assert is_operation("logs", "AssociateKmsKey")
    assert not is_operation("logs", "AssociateKMSKey")
