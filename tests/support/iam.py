"""The policies under k8s/iam, as they are and as somebody in another partition, Region or account would fill them in."""

import ast
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import botocore.session
import yaml
from botocore import xform_name

from service.aws.clients import Service
from service.domain.log_group import dns_suffix_of, partition_of
from tests.support.manifests import REPOSITORY

IAM = REPOSITORY / "k8s" / "iam"
EXTERNAL_ID = "REPLACE-WITH-YOUR-EXTERNAL-ID"
LOGWARDENS_ACCOUNT, TENANTS_ACCOUNT, REGION = "999900001111", "111122223333", "eu-west-1"

Document = dict[str, Any]


def document(name: str, *, region: str = REGION) -> Document:
    """A document for a Region: its partition, its suffix and its name filled in."""
    text = (IAM / f"{name}.json").read_text()
    text = text.replace('"arn:aws:', f'"arn:{partition_of(region)}:').replace(REGION, region)
    text = text.replace(f"logs.{region}.amazonaws.com", f"logs.{region}.{dns_suffix_of(region)}")
    found: Document = json.loads(text.replace("logs.*.amazonaws.com", f"logs.*.{dns_suffix_of(region)}"))
    return found


def template(*, region: str = REGION) -> Document:
    """The properties of the role in member-role.yaml, as CloudFormation would make it in a Region."""
    values = {
        "AWS::Partition": partition_of(region),
        "AWS::URLSuffix": dns_suffix_of(region),
        "ServiceRoleArn": f"arn:{partition_of(region)}:iam::{LOGWARDENS_ACCOUNT}:role/logwarden-service",
        "ExternalId": EXTERNAL_ID,
        "RoleName": "logwarden",
    }

    class Loader(yaml.SafeLoader):
        pass

    def substituted(_: yaml.SafeLoader, node: yaml.nodes.ScalarNode) -> str:
        text = node.value
        for name, value in values.items():
            text = text.replace(f"${{{name}}}", value)
        assert "${" not in text
        return str(text)

    Loader.add_constructor("!Sub", substituted)
    Loader.add_constructor("!Ref", lambda _, node: values[node.value])
    loaded = yaml.load((IAM / "member-role.yaml").read_text(), Loader)  # a safe loader, and our own file
    properties: Document = loaded["Resources"]["Role"]["Properties"]
    return properties


def statements(policy: Document) -> list[Document]:
    return list(policy["Statement"]) if "Statement" in policy else [policy]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@functools.cache
def called_actions() -> frozenset[str]:
    """The IAM action of every operation that the service's code hands to some call: all that could ever be sent to AWS."""
    by_method: dict[str, set[str]] = {}
    session: Any = botocore.session.get_session()
    for service in get_args(Service):
        for operation in session.get_service_model(service).operation_names:
            by_method.setdefault(xform_name(operation), set()).add(f"{service}:{operation}")
    found: set[str] = set()
    for name in _arguments():
        actions = by_method.get(name, set())
        assert len(actions) < 2, f"{name} may be any of {actions}"
        found |= actions
    return frozenset(found)


def table_actions(module: str) -> set[str]:
    """The IAM action of every DynamoDB operation that a module of the registry hands to some call."""
    session: Any = botocore.session.get_session()
    operations = {xform_name(name): name for name in session.get_service_model("dynamodb").operation_names}
    named = set(_arguments_in(REPOSITORY / "service" / "registry" / f"{module}.py"))
    return {f"dynamodb:{operations[name]}" for name in named & operations.keys()}


def _arguments() -> Iterator[str]:
    """Every text that is an argument of some call in the service, its sandbox apart."""
    for path in sorted((REPOSITORY / "service").rglob("*.py")):
        if "sandbox" not in path.parts:
            yield from _arguments_in(path)


def _arguments_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value
