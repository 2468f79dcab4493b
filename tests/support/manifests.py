"""The Kubernetes manifests as the tests see them: rendered by kustomize, then looked up by kind."""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
BASE = REPOSITORY / "k8s" / "base"

Manifest = Mapping[str, Any]


def require_tool(name: str) -> str:
    """Where the tool is. Leaves the test out where it is missing, and fails it where TEST_EVERYTHING is 1."""
    path = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if path is not None:
        return path
    missing = f"{name} is not installed"
    if os.environ.get("TEST_EVERYTHING") == "1":
        pytest.fail(f"{missing}, and TEST_EVERYTHING=1 leaves nothing out")
    pytest.skip(missing)


def render(folder: Path) -> list[Manifest]:
    """What `kubectl kustomize` makes of a folder; fails the test with kustomize's own words."""
    command = [require_tool("kubectl"), "kustomize", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return [manifest for manifest in yaml.safe_load_all(run.stdout) if manifest]


def one(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """The only manifest of a kind whose name starts with `name`."""
    [found] = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"].startswith(name)]
    return found


def pod_spec(manifests: list[Manifest]) -> Manifest:
    """The pod spec of the only Deployment."""
    spec: Manifest = one(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(manifests: list[Manifest]) -> Manifest:
    """The only container of the only Deployment."""
    [only] = pod_spec(manifests)["containers"]
    found: Manifest = only
    return found


def probes(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Each probe of the container with its name."""
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        yield name, container(manifests)[name]
