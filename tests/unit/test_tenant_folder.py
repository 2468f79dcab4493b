"""A folder of tenant files: read as one file, with every problem told by file and line, and again when any of them changes."""

import os
from pathlib import Path

import pytest

from service.domain.log_group import LogGroup
from service.domain.tenancy import Excluded, Owned
from service.registry.file import FileDirectory, TenantFileError, load_tenant_file

KEY = "arn:aws:kms:eu-west-1:111122223333:key/1"


def tenant(id_: str, account: str = "111122223333", names: str = "") -> str:
    return f"""\
version: 1
tenants:
  - id: {id_}
    keys: {{eu-west-1: "{KEY}"}}
    rules: [{{accounts: ["{account}"], names: ["/{names or id_}/*"]}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tenants.d"
    folder.mkdir()
    (folder / "a.yaml").write_text(tenant("acme"))
    (folder / "b.yml").write_text(tenant("blue"))
    return folder


def problems(folder: Path) -> list[str]:
    with pytest.raises(TenantFileError) as refused:
        load_tenant_file(folder)
    lines = str(refused.value).splitlines()
    assert all(line.startswith(f"{folder}") for line in lines)
    return [line.removeprefix(f"{folder}").lstrip("/:") for line in lines]


def test_only_visible_yaml_files_are_read(folder):
    (folder / "README.md").write_text("not YAML: [")
    (folder / ".hidden.yaml").write_text("not YAML: [")
    (folder / "c.yaml").mkdir()
    assert len(load_tenant_file(folder)) == 2


def test_a_folder_may_hold_one_file(folder):
    (folder / "b.yml").unlink()
    assert len(load_tenant_file(folder)) == 1


def test_a_file_need_not_have_tenants_of_its_own(folder):
    (folder / "0-everybody.yaml").write_text('version: 1\nexclude:\n  - names: ["/scratch/*"]\n')
    decision = load_tenant_file(folder).decide(LogGroup.of("111122223333", "eu-west-1", "/scratch/x"), None)
    assert isinstance(decision, Excluded)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (tenant("acme", names="other"), "c.yaml:3: tenants[0].id: acme is already the id of tenants[0] in a.yaml"),
        (tenant("c").replace(KEY, "alias/x"), "c.yaml:4: tenants[0].keys.eu-west-1: key 'alias/x' is not"),
        (tenant("c").replace('["111122223333"]', "[111122223333]"), "c.yaml:5: tenants[0].rules[0].accounts[0]: has to be in quotes"),
        (tenant("c").replace("version: 1\n", ""), "c.yaml:1: version: is missing"),
        (tenant("c").replace("version: 1", "version: 2"), "c.yaml:1: version: has to be 1"),
        (tenant("c").replace("version: 1", "version: true"), "c.yaml:1: version: has to be 1"),
        (tenant("c") + "default_tenant: nobody\n", "c.yaml:6: default_tenant: there is no tenant nobody"),
        (tenant("c") + "surprise: 1\n", "c.yaml:6: surprise: is no field here"),
        ("[]", "c.yaml:1: has to be a mapping"),
        ("", "c.yaml:1: is empty"),
        ("version: [", "c.yaml:2: while parsing"),
        ("version: 1\n\xff", "c.yaml:2: is not UTF-8"),
        ("version: 1\ntenants: 5\n", "c.yaml:2: tenants: is in a.yaml already"),
        (tenant("c", names="acme"), "c.yaml:5: tenants[0].rules[0]: overlaps rule 1 of acme"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_file_line_and_field(folder, text, problem):
    (folder / "c.yaml").write_text(text, encoding="latin-1")
    assert any(line.startswith(problem) for line in problems(folder)), problems(folder)


def test_what_may_be_there_once_is_told_where_it_is_there_again(folder):
    for name in ("a.yaml", "b.yml"):
        with (folder / name).open("a") as file:
            file.write("default_tenant: acme\n")
    assert problems(folder) == ["b.yml:6: default_tenant: is in a.yaml already"]


def test_mistakes_of_all_files_are_told_at_once(folder):
    for name in ("a.yaml", "b.yml"):
        (folder / name).write_text("version: 1\noops: 1\n")
    assert [line.partition(":")[0] for line in problems(folder) if "oops" in line] == ["a.yaml", "b.yml"]


def test_an_empty_folder_is_refused(tmp_path):
    assert problems(tmp_path) == ["1: has no file whose name ends in .yaml or .yml"]


async def test_a_file_that_comes_changes_or_goes_is_noticed(folder):
    directory = FileDirectory(folder)
    group = LogGroup.of("111122223333", "eu-west-1", "/c/x")
    versions = {directory.version}
    (folder / "c.yaml").write_text(tenant("c"))
    assert await directory.refresh()
    assert isinstance(await directory.decide(group, None), Owned)
    versions.add(directory.version)
    (folder / "c.yaml").write_text(tenant("c", names="other"))
    assert await directory.refresh()
    assert not isinstance(await directory.decide(group, None), Owned)
    versions.add(directory.version)
    assert not await directory.refresh()
    (folder / "c.yaml").unlink()
    assert await directory.refresh()
    assert len(versions) == 3
    assert directory.version in versions, "the content is as at the start"


async def test_a_swap_of_links_is_noticed_as_the_kubelet_does_it(tmp_path):
    folder = tmp_path / "mounted"
    for version, id_ in (("..1", "acme"), ("..2", "blue")):
        (folder / version).mkdir(parents=True)
        (folder / version / "tenants.yaml").write_text(tenant(id_))
    (folder / "..data").symlink_to("..1")
    (folder / "tenants.yaml").symlink_to("..data/tenants.yaml")
    directory = FileDirectory(folder)
    (folder / "..data_tmp").symlink_to("..2")
    os.replace(folder / "..data_tmp", folder / "..data")  # noqa: PTH105  the call that the kubelet makes
    assert await directory.refresh()
    assert isinstance(await directory.decide(LogGroup.of("111122223333", "eu-west-1", "/blue/x"), None), Owned)
