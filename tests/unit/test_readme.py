"""The pages say what the code does: their generated parts are in step, their links lead somewhere, the commands exist."""

import re
from pathlib import Path

import pytest
import typer.main
import yaml

from service.cli import app
from service.http.tokens import GUARDED
from service.registry.file import load_tenant_file
from tests.support.readme import README, REPOSITORY, SECTIONS, rendered

TEXT = README.read_text()
PAGES = [
    README,
    *REPOSITORY.glob("service/**/*.md"),
    *REPOSITORY.glob("k8s/**/*.md"),
    *REPOSITORY.glob("tests/**/*.md"),
]
LINKS = [
    pytest.param(page, link, id=f"{page.relative_to(REPOSITORY)}: {link}")
    for page in PAGES
    for link in sorted(set(re.findall(r"\]\(([^)\s]+)\)", page.read_text())))
    if not link.startswith("https://")
]


def anchors(page: Path) -> set[str]:
    """What a page's headings are linked by: in small letters, hyphens for spaces, and no other marks."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", SECTIONS)
def test_generated_sections_are_as_the_code_is(page: Path):
    assert rendered(page) == page.read_text(), "run `uv run poe docs`"


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_lead_somewhere(page: Path, link: str):
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists()
    assert not anchor or anchor in anchors(target)


def test_every_page_can_be_reached_from_the_readme():
    reached, new = set[Path](), [README]
    while new:
        page = new.pop()
        reached.add(page)
        links = {
            (page.parent / link.partition("#")[0]).resolve()
            for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        }
        folders = {link / "README.md" for link in links if link.is_dir()}
        new += [link for link in links | folders if link.suffix == ".md" and link.is_file() and link not in reached]
    assert {page.resolve() for page in PAGES} <= {page.resolve() for page in reached}


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
