"""The README says what the code does: its generated parts are in step, its links lead somewhere, its commands exist."""

import re
from pathlib import Path

import pytest
import typer.main
import yaml

from service.cli import app
from service.http.tokens import GUARDED
from service.registry.file import load_tenant_file
from tests.support.readme import README, rendered

TEXT = README.read_text()


def test_generated_sections_are_as_the_code_is():
    assert rendered(TEXT) == TEXT, "run `uv run poe docs`"


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_links_to_files_lead_somewhere(target):
    assert target.startswith("https://") or (README.parent / target).exists()


@pytest.mark.parametrize("path", re.findall(r"\[`(tests/[^`]+)`\]", TEXT))
def test_the_tests_that_guarantees_name_exist(path):
    assert (README.parent / path).exists()


def test_every_command_is_described():
    commands = {
        typer.main.get_command_name(getattr(command.callback, "__name__", "")) for command in app.registered_commands
    } | {group.name for group in app.registered_groups}
    assert commands == set(re.findall(r"^\| `logwarden ([\w-]+)", TEXT, re.MULTILINE))


def test_the_tenant_file_shown_is_valid(tmp_path: Path):
    shown = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert shown
    assert yaml.safe_load(shown[1])
    (tmp_path / "tenants.yaml").write_text(shown[1])
    assert len(load_tenant_file(tmp_path / "tenants.yaml")) == 1


def test_the_guarded_prefix_is_the_one_that_is_described():
    assert f"Everything under `{GUARDED}` needs a bearer" in TEXT.replace("\n", " ")
