"""The rights that k8s/README.md says Kafka must allow, as the table there has them."""

import re
from dataclasses import dataclass
from typing import Literal

from service.settings import Role
from tests.support.manifests import REPOSITORY


@dataclass(frozen=True, order=True)
class Right:
    """One operation on a topic or a group; a name that ends in * is a prefix."""

    resource: Literal["topic", "group"]
    name: str
    operation: str


def rights_by_role() -> dict[Role, set[Right]]:
    text = (REPOSITORY / "k8s" / "README.md").read_text()
    [table] = re.findall(r"<!-- kafka-rights -->\n(.*?)\n<!-- /kafka-rights -->", text, re.DOTALL)
    found: dict[Role, set[Right]] = {role: set() for role in Role}
    for line in table.splitlines()[2:]:
        who, what, operations = [cell.strip() for cell in line.strip("|").split("|")]
        roles = list(Role) if who == "every role" else [Role(who.strip("`"))]
        resource: Literal["topic", "group"] = "topic" if what.startswith("topic") else "group"
        for role in roles:
            for name in re.findall(r"`([^`]+)`", what):
                found[role] |= {Right(resource, name, each) for each in re.findall(r"`([^`]+)`", operations)}
    return found
