"""The contracts that keep the domain and the core free of vendors name every dependency there is."""

import re
import tomllib
from pathlib import Path

import pytest

PYPROJECT = tomllib.loads(Path("pyproject.toml").read_text())
IMPORTED_AS = {"pyyaml": "yaml"}
DEPENDENCIES = {
    IMPORTED_AS.get(name, name.replace("-", "_"))
    for requirement in PYPROJECT["project"]["dependencies"]
    if (name := re.split(r"[~=<>\[; ]", requirement, maxsplit=1)[0])
}


@pytest.mark.parametrize(
    ("module", "allowed"), [("service.domain", set()), ("service.core", {"tenacity", "structlog"})]
)
def test_a_layer_without_vendors_forbids_every_dependency(module, allowed):
    [contract] = [
        contract
        for contract in PYPROJECT["tool"]["importlinter"]["contracts"]
        if contract["type"] == "forbidden"
        and module in contract["source_modules"]
        and "yaml" in contract["forbidden_modules"]
    ]
    assert DEPENDENCIES - allowed <= set(contract["forbidden_modules"])
