"""The Dockerfile and what it installs, as far as reading them can tell; `.ci/image` builds the image and runs it."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.manifests import BASE, REPOSITORY, container, pod_spec, render, require_tool

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?: ; (?P<marker>[^\\]+?))? \\$")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions as (name, arguments), comments left out and continued lines joined."""
    lines = [line for line in (REPOSITORY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def final_stage() -> list[tuple[str, str]]:
    last = max(index for index, (name, _) in enumerate(instructions()) if name == "FROM")
    return instructions()[last:]


def from_context() -> list[str]:
    """Everything that the build copies out of the repository."""
    copies = [rest.split() for rest in arguments("COPY") if not rest.startswith("--from=")]
    return [source for words in copies for source in words[:-1]]


def pins(path: Path) -> dict[str, str]:
    """Distribution name to pinned version; each pin is followed by at least one hash."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    found: dict[str, str] = {}
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith(" "):
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), f"{path.name}: {line}"
            continue
        pin = PIN.match(line)
        assert pin, f"{path.name}: {line} is not pinned"
        assert following.startswith("    --hash=sha256:"), f"{path.name}: {line} has no hash"
        found[canonicalize_name(pin["name"])] = pin["version"]
    return found


def unmet(declared: list[str], pinned: dict[str, str]) -> list[str]:
    """The declared requirements that the pins leave out or break."""
    return [
        text
        for text, requirement in ((text, Requirement(text)) for text in declared)
        if (version := pinned.get(canonicalize_name(requirement.name))) is None
        or not requirement.specifier.contains(version, prereleases=True)
    ]


class TestRequirements:
    def test_every_runtime_dependency_is_pinned_within_its_range(self):
        declared = PYPROJECT["project"]["dependencies"]
        assert unmet(declared, pins(REPOSITORY / "requirements.txt")) == [], "run `uv run poe lock`"

    def test_a_pin_that_is_absent_or_outside_the_declared_range_is_seen(self):
        declared = ["fastapi~=0.165.0", "httpx", "rich"]
        assert unmet(declared, {"fastapi": "0.164.9", "rich": "15.0.0"}) == ["fastapi~=0.165.0", "httpx"]

    def test_what_builds_the_wheel_is_pinned_within_its_range(self):
        declared = [*PYPROJECT["build-system"]["requires"], "uv"]
        assert unmet(declared, pins(REPOSITORY / "requirements-build.txt")) == [], "run `uv run poe lock`"

    def test_the_image_has_nothing_of_the_sandbox(self):
        declared = PYPROJECT["project"]["optional-dependencies"]["sandbox"]
        sandbox = {canonicalize_name(Requirement(text).name) for text in declared}
        assert sandbox.isdisjoint(pins(REPOSITORY / "requirements.txt"))

    @pytest.mark.parametrize("name", ["requirements.txt", "requirements-build.txt"])
    def test_no_registry_is_named(self, name):
        text = (REPOSITORY / name).read_text()
        assert "://" not in text
        assert "index-url" not in text


class TestDockerfile:
    def test_hadolint_has_nothing_to_say(self):
        run = subprocess.run(
            [require_tool("hadolint"), "--no-color", "--disable-ignore-pragma", str(REPOSITORY / "Dockerfile")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (run.returncode, run.stdout) == (0, ""), run.stderr

    def test_every_stage_starts_from_the_one_base_image_which_has_a_version(self):
        assert {rest.split()[0] for rest in arguments("FROM")} == {"${BASE_IMAGE}"}
        [base] = [rest for rest in arguments("ARG") if rest.startswith("BASE_IMAGE=")]
        assert re.search(r":\d+\.\d+-", base)

    def test_it_builds_with_older_buildah_too(self):
        for name, rest in instructions():
            assert "<<" not in rest, f"{name}: a heredoc"
            assert not (name == "COPY" and "--link" in rest), rest
            assert not (name == "RUN" and rest.startswith("--")), rest
        copied_from = re.findall(r"--from=(\S+)", " ".join(arguments("COPY")))
        assert set(copied_from) <= set(re.findall(r"AS (\w+)", "\n".join(arguments("FROM"))))

    def test_nothing_is_installed_without_a_hash(self):
        installs = re.findall(r"(?:pip|uv pip) install [^&]+", " ".join(arguments("RUN")))
        assert len(installs) == 3
        for install in installs:
            assert "--require-hashes --only-binary :all:" in install or "--no-deps /dist/*.whl" in install, install

    def test_the_final_stage_runs_no_command_and_has_only_the_environment(self):
        names = [name for name, _ in final_stage()]
        assert "RUN" not in names
        assert [rest for name, rest in final_stage() if name == "COPY"] == [
            "--from=build /opt/logwarden /opt/logwarden"
        ]

    def test_process_1_is_the_projects_command_in_exec_form(self):
        [entrypoint], [command] = arguments("ENTRYPOINT"), arguments("CMD")
        [script] = PYPROJECT["project"]["scripts"]
        assert json.loads(entrypoint) == [script]
        assert json.loads(command) == ["run"]
        assert arguments("STOPSIGNAL") == ["SIGTERM"]

    def test_the_deployment_runs_it_as_the_image_means_it(self):
        base = render(BASE)
        security = pod_spec(base)["securityContext"]
        assert arguments("USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]
        [port] = container(base)["ports"]
        assert arguments("EXPOSE") == [str(port["containerPort"])]
        assert "command" not in container(base)
        assert container(base)["args"] == json.loads(arguments("CMD")[0])


class TestBuildContext:
    def test_exactly_what_is_copied_is_let_through(self):
        ignore = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
        assert ignore[0] == "*"
        assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == set(from_context())

    def test_what_is_copied_exists(self):
        assert [source for source in from_context() if not (REPOSITORY / source).exists()] == []

    def test_what_the_wheel_is_built_from_is_copied(self):
        project, wheel = PYPROJECT["project"], PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
        assert {"pyproject.toml", project["readme"], *project["license-files"], *wheel["packages"]} <= set(
            from_context()
        )
