"""k8s/iam allows what the code calls, and nothing else."""

import json
import re
from fnmatch import fnmatchcase
from typing import get_args

import pytest
import yaml

from service.aws.clients import Service
from service.domain.key_policy import LOGS_ACTIONS, PolicyVerdict, logs_principal, logs_statement, read_key_policy
from service.domain.log_group import KeyArn, LogGroup, partition_of
from service.domain.outcome import FailureClass
from service.settings import Settings
from tests.support.iam import (
    EXTERNAL_ID,
    IAM,
    REGION,
    TENANTS_ACCOUNT,
    called_actions,
    document,
    listed,
    statements,
    table_actions,
    template,
)
from tests.support.manifests import BASE, REPOSITORY

DOCUMENTS = sorted(path.stem for path in IAM.glob("*.json"))
TRUST = [name for name in DOCUMENTS if "trust" in name]
OF_KEYS = [name for name in DOCUMENTS if name.startswith("key-policy")]
DOCUMENT_BY_SERVICE = {"logs": "member-role", "kms": "member-role", "sts": "service-role"}
FREE = {"sts:GetCallerIdentity"}  # nobody needs a right to it
# What AWS asks of a caller besides the right to the operation itself.
ALSO_NEEDED = {
    "logs:AssociateKmsKey": set(LOGS_ACTIONS),  # CloudWatch Logs does these in the caller's name
    "sts:AssumeRole": {
        "sts:TagSession"
    },  # of LOGWARDEN_AWS_ROLE_SESSION_TAGS; those of a Pod Identity session go along
}
REGIONS = ["eu-west-1", "us-gov-west-1", "cn-north-1", "us-iso-east-1", "us-isob-east-1", "eusc-de-east-1"]


def actions(name: str) -> set[str]:
    return {action for statement in statements(document(name)) for action in listed(statement["Action"])}


def needed(name: str) -> set[str]:
    called = called_actions() - FREE
    everything = called.union(*(ALSO_NEEDED.get(action, set()) for action in called))
    return {action for action in everything if DOCUMENT_BY_SERVICE[action.split(":")[0]] == name}


def test_the_calls_that_the_code_makes_are_found():
    assert {"logs:AssociateKmsKey", "kms:DescribeKey", "kms:GetKeyPolicy", "sts:AssumeRole"} <= called_actions()
    assert set(DOCUMENT_BY_SERVICE) == set(get_args(Service))


@pytest.mark.parametrize("name", ["service-role", "member-role"])
def test_every_call_has_a_right_and_every_right_a_call(name):
    granted = actions(name)
    assert [action for action in needed(name) if not any(fnmatchcase(action, pattern) for pattern in granted)] == []
    assert [pattern for pattern in granted if not any(fnmatchcase(action, pattern) for action in needed(name))] == []


@pytest.mark.parametrize(
    ("name", "module"), [("registry-dynamodb", "dynamodb"), ("registry-dynamodb-load", "dynamodb_store")]
)
def test_of_the_table_too_every_call_has_a_right_and_every_right_a_call(name, module):
    assert actions(name) == table_actions(module)


def test_the_keys_statement_lets_logs_do_what_it_does_and_nothing_else():
    granted = actions("key-policy-statement") - {"kms:Describe*"}  # AWS's page has it; nothing here depends on it
    assert {action for action in LOGS_ACTIONS if any(fnmatchcase(action, pattern) for pattern in granted)} == {
        *LOGS_ACTIONS
    }
    assert all(any(fnmatchcase(action, pattern) for action in LOGS_ACTIONS) for pattern in granted)


def test_a_key_of_another_account_lets_the_member_role_do_what_its_own_policy_does_but_for_what_kms_never_allows():
    ours = {action for action in actions("member-role") if action.startswith("kms:")}
    assert actions("key-policy-other-account") == ours - {
        "kms:GetKeyPolicy"
    }  # no call across accounts: KMS's reference
    through_logs, looking = statements(document("key-policy-other-account"))
    role = f"arn:aws:iam::{TENANTS_ACCOUNT}:role/{Settings.model_fields['aws_role_name'].default}"
    assert through_logs["Principal"] == looking["Principal"] == {"AWS": role}
    assert through_logs["Condition"] == {"StringEquals": {"kms:ViaService": logs_principal(REGION)}}
    assert listed(looking["Action"]) == ["kms:DescribeKey"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_a_policy_and_small_enough_for_iam(name):
    policy = document(name)
    assert policy.get("Version", "2012-10-17") == "2012-10-17"
    # Characters: IAM's quotas for a trust policy and for a managed policy, white space not counted.
    assert len(json.dumps(policy, separators=(",", ":"))) <= (2_048 if name in TRUST else 6_144)
    allowed = {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
    for statement in statements(policy):
        assert statement["Effect"] == "Allow"
        assert re.fullmatch("[A-Za-z0-9]+", statement["Sid"])
        assert set(statement) <= allowed
        assert ("Principal" in statement) == (name in [*TRUST, *OF_KEYS])
        assert ("Resource" in statement) == (name not in TRUST)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_nothing_is_wider_than_it_has_to_be(name):
    for statement in statements(document(name)):
        assert not [action for action in listed(statement["Action"]) if re.fullmatch(r"\*|\w+:\*", action)]
        assert "*" not in json.dumps(statement.get("Principal", ""))
        if name not in OF_KEYS:  # in a key policy, * is the key
            assert "*" not in listed(statement.get("Resource"))
        if name in [*TRUST, *OF_KEYS] and statement["Action"] not in ("sts:TagSession", "kms:DescribeKey"):
            assert statement["Condition"], "whom it trusts is said twice"
    [decrypting] = [s for s in statements(document("member-role")) if "kms:Decrypt" in s["Action"]]
    assert decrypting["Condition"] == {"StringLike": {"kms:ViaService": "logs.*.amazonaws.com"}}


@pytest.mark.parametrize("region", REGIONS)
def test_the_template_makes_the_same_role_in_every_partition(region):
    made = template(region=region)
    assert made["AssumeRolePolicyDocument"] == document("member-role-trust", region=region)
    [inline] = made["Policies"]
    assert inline["PolicyDocument"] == document("member-role", region=region)
    assert made["RoleName"] == Settings.model_fields["aws_role_name"].default
    assert (IAM / "member-role.yaml").stat().st_size <= 51_200  # CloudFormation's limit for a template in the call


@pytest.mark.parametrize("region", REGIONS)
def test_the_keys_statement_is_the_one_that_logwarden_tells_tenants_to_add_and_reads_as_right(region):
    statement = document("key-policy-statement", region=region)
    group = LogGroup.of(TENANTS_ACCOUNT, region, "/app/a")
    assert statement == logs_statement(group.lane)
    key = KeyArn(f"arn:{partition_of(region)}:kms:{region}:{TENANTS_ACCOUNT}:key/1")
    finding = read_key_policy(json.dumps({"Statement": [statement]}), key=key, log_group=group)
    assert finding.verdict is PolicyVerdict.ALLOWS


def test_both_ends_of_the_assumed_role_agree():
    service, trust = statements(document("service-role")), statements(document("member-role-trust"))
    for ours, theirs in zip(service, trust, strict=True):
        assert ours["Action"] == theirs["Action"]
        assert ours.get("Condition") == theirs.get("Condition")
        assert ours["Resource"].endswith(f":role/{Settings.model_fields['aws_role_name'].default}")
    assert service[0]["Condition"] == {"StringEquals": {"sts:ExternalId": EXTERNAL_ID}}


def test_the_service_account_that_is_trusted_is_the_one_of_the_manifests():
    account = yaml.safe_load((BASE / "service-account.yaml").read_text())["metadata"]["name"]
    [pod_identity] = statements(document("service-role-trust-pod-identity"))
    assert pod_identity["Condition"]["StringEquals"]["aws:RequestTag/kubernetes-service-account"] == account
    [irsa] = statements(document("service-role-trust-irsa"))
    assert f"system:serviceaccount:logwarden:{account}" in irsa["Condition"]["StringEquals"].values()


def test_what_operators_are_told_names_documents_and_rights_that_are_there():
    hints = "\n".join(failure.hint for failure in FailureClass)
    text = hints + (REPOSITORY / "service" / "domain" / "key.py").read_text()
    named = set(re.findall(r"k8s/iam/([\w.-]+\w)", text))
    assert {"member-role.json", *(f"{name}.json" for name in OF_KEYS)} <= named <= {each.name for each in IAM.iterdir()}
    rights = set(re.findall(r"\b(?:sts|logs):[A-Z]\w+", hints))
    assert {"sts:TagSession"} <= rights <= actions("service-role") | actions("member-role")


def test_every_document_is_described_and_every_link_leads_somewhere():
    text = (IAM / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^)#]+)[^)]*\)", text))
    assert all((IAM / each).exists() for each in linked)
    linked = {each for each in linked if "/" not in each}
    assert linked == {path.name for path in IAM.iterdir()} - {"README.md"}
    assert REGION in text
    assert EXTERNAL_ID in text
    assert "k8s/iam" in (REPOSITORY / "README.md").read_text()
