"""k8s/base as rendered by kustomize: valid for the API server, and true to what the service does."""

import os
import re
import shutil
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
from kubernetes_validate.utils import latest_version

from service.registry.file import load_tenant_file
from service.settings import PREFIX, SECRETS_DIR, Settings, SettingsError, load_settings
from service.stream.connection import client_arguments
from tests.support.http import side_port
from tests.support.iam import document, statements
from tests.support.manifests import (
    BASE,
    REPOSITORY,
    Manifest,
    container,
    one,
    pod_spec,
    probes,
    render,
)
from tests.support.tls import self_signed

OLDEST_KUBERNETES = "1.29"
POD_LABELS = {"app.kubernetes.io/name": "logwarden", "app.kubernetes.io/component": "service"}


@pytest.fixture(scope="module")
def base() -> list[Manifest]:
    return render(BASE)


def settings_of(manifests: list[Manifest], monkeypatch: pytest.MonkeyPatch, folder: Path, **secret: str) -> Settings:
    """The settings that the container starts with, where the Secret, mounted at `folder` here, holds `secret`."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in one(manifests, "ConfigMap", "logwarden-settings")["data"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(SECRETS_DIR, str(folder))
    for name, value in secret.items():
        (folder / name).write_text(value)
    return load_settings()


@pytest.fixture
def settings(base: list[Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    return settings_of(base, monkeypatch, tmp_path)


def mounted_from(base: list[Manifest], path: PurePosixPath) -> tuple[dict[str, Any], dict[str, Any]]:
    """The mount that a path of the container lies on, and its volume."""
    [mount] = [m for m in container(base)["volumeMounts"] if path.is_relative_to(m["mountPath"])]
    [volume] = [v for v in pod_spec(base)["volumes"] if v["name"] == mount["name"]]
    return mount, volume


class TestTheApiServerAcceptsIt:
    @pytest.mark.parametrize("version", [OLDEST_KUBERNETES, latest_version()])
    def test_every_manifest_is_valid_and_has_no_unknown_field(self, base, version):
        for manifest in base:
            kubernetes_validate.validate(manifest, version, strict=True)

    def test_a_misspelt_field_would_not_pass(self, base):
        deployment = one(base, "Deployment")
        misspelt = {**deployment, "spec": {**deployment["spec"], "minReadySecond": 10}}
        with pytest.raises(kubernetes_validate.ValidationError, match="minReadySecond"):
            kubernetes_validate.validate(misspelt, OLDEST_KUBERNETES, strict=True)

    def test_memory_is_requested_in_full_and_cpu_is_not_limited(self, base):
        resources = container(base)["resources"]
        assert resources["limits"] == {"memory": resources["requests"]["memory"]}
        assert "cpu" in resources["requests"]


class TestLabels:
    def test_every_object_and_pod_is_labelled(self, base):
        expected = {**POD_LABELS, "app.kubernetes.io/part-of": "logwarden"}
        for manifest in base:
            assert expected.items() <= manifest["metadata"]["labels"].items(), manifest["kind"]
        assert expected.items() <= one(base, "Deployment")["spec"]["template"]["metadata"]["labels"].items()

    def test_every_selector_is_the_same_and_selects_the_pods(self, base):
        selectors = [
            one(base, "Deployment")["spec"]["selector"]["matchLabels"],
            one(base, "Service")["spec"]["selector"],
            one(base, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            *(c["labelSelector"]["matchLabels"] for c in pod_spec(base)["topologySpreadConstraints"]),
        ]
        assert selectors == [POD_LABELS] * len(selectors), "no more than these: a selector cannot be changed later"


class TestStartingAndStopping:
    def test_the_image_is_this_version_of_the_project(self, base):
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        assert container(base)["image"] == f"logwarden:{project['version']}"

    def test_a_killed_pod_had_time_to_drain_commit_and_leave(self, base, settings):
        [_, before_s] = container(base)["lifecycle"]["preStop"]["exec"]["command"]
        stop_s = settings.shutdown_drain_s + settings.commit_timeout_s
        assert pod_spec(base)["terminationGracePeriodSeconds"] > float(before_s) + stop_s

    def test_a_pod_that_is_to_end_answers_until_nobody_sends_to_it_any_more(self, base):
        assert container(base)["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "5"]}}}

    def test_a_rollout_adds_one_before_it_removes_one(self, base):
        spec = one(base, "Deployment")["spec"]
        assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        assert spec["minReadySeconds"] == 10

    def test_a_drained_node_takes_one_pod_at_a_time_and_waits_for_none_that_is_broken(self, base):
        spec = one(base, "PodDisruptionBudget")["spec"]
        assert spec["maxUnavailable"] == 1
        assert "minAvailable" not in spec
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        assert one(base, "Deployment")["spec"]["replicas"] > spec["maxUnavailable"]

    def test_pods_spread_over_zones_and_hosts_without_waiting_for_either(self, base):
        constraints = pod_spec(base)["topologySpreadConstraints"]
        assert [c["topologyKey"] for c in constraints] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        for constraint in constraints:
            assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
            assert constraint["matchLabelKeys"] == ["pod-template-hash"]

    def test_liveness_restarts_and_readiness_only_waits(self, base):
        paths = {name: probe["httpGet"]["path"] for name, probe in probes(base)}
        assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}

    async def test_probes_ask_for_what_the_side_port_answers_on_the_named_port(self, base):
        async with side_port(None) as port:
            for name, probe in probes(base):
                assert probe["httpGet"]["port"] == "http"
                assert (await port.client.get(probe["httpGet"]["path"])).status_code == 200, name

    def test_the_named_port_is_where_the_service_listens(self, base, settings):
        assert container(base)["ports"] == [{"name": "http", "containerPort": settings.http_port, "protocol": "TCP"}]
        [port] = one(base, "Service")["spec"]["ports"]
        assert port["targetPort"] == "http"

    def test_a_probe_is_over_before_the_next_one(self, base):
        for name, probe in probes(base):
            assert probe["timeoutSeconds"] <= probe["periodSeconds"], name


class TestSettings:
    def test_every_variable_is_a_setting(self, base):
        names = one(base, "ConfigMap", "logwarden-settings")["data"]
        known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields} | {f"{PREFIX}SECRETS_DIR"}
        assert names.keys() <= known

    def test_the_first_rollout_changes_nothing(self, settings):
        assert settings.dry_run

    def test_they_come_from_the_generated_config_map_and_nowhere_else(self, base):
        name = one(base, "ConfigMap", "logwarden-settings")["metadata"]["name"]
        assert container(base)["envFrom"] == [{"configMapRef": {"name": name}}]
        assert "env" not in container(base)

    def test_service_links_are_off_as_they_would_be_refused_as_settings(self, base, settings, monkeypatch):
        link = one(base, "Service")["metadata"]["name"].upper() + "_PORT"
        monkeypatch.setenv(link, "tcp://10.0.0.1:8080")
        with pytest.raises(SettingsError, match=link):
            load_settings()
        assert pod_spec(base)["enableServiceLinks"] is False

    def test_the_tenant_file_lies_on_the_mounted_config_map(self, base, settings):
        path = PurePosixPath(settings.tenants_file)
        mount, volume = mounted_from(base, path)
        tenants = one(base, "ConfigMap", volume["configMap"]["name"])
        assert str(path.relative_to(mount["mountPath"])) in tenants["data"]

    def test_the_tenant_file_is_one_that_the_service_starts_with(self):
        assert len(load_tenant_file(BASE / "tenants.yaml")) == 1

    def test_secrets_may_be_absent_and_are_read_from_where_they_are_mounted(self, base, settings):
        data = one(base, "ConfigMap", "logwarden-settings")["data"]
        assert settings.api_token_file is not None
        for path, secret in [
            (PurePosixPath(data["LOGWARDEN_SECRETS_DIR"]), "logwarden-credentials"),
            (PurePosixPath(settings.api_token_file), "logwarden-api-tokens"),
        ]:
            _, volume = mounted_from(base, path)
            assert (volume["secret"]["secretName"], volume["secret"]["optional"]) == (secret, True)

    def test_no_mount_is_by_sub_path_as_such_files_are_never_updated(self, base):
        assert [m["name"] for m in container(base)["volumeMounts"] if "subPath" in m] == []

    @pytest.mark.parametrize(
        ("file", "added", "rolls"),
        [("settings.env", "LOGWARDEN_RATE_PER_S=4\n", True), ("tenants.yaml", "# one more tenant\n", False)],
    )
    def test_a_changed_setting_rolls_the_pods_and_a_changed_tenant_does_not(self, base, tmp_path, file, added, rolls):
        changed = shutil.copytree(BASE, tmp_path / "base")
        with (changed / file).open("a") as f:
            f.write(added)
        after = render(changed)
        assert after != base
        assert (one(after, "Deployment") != one(base, "Deployment")) is rolls


class TestPodSecurity:
    """The `restricted` Pod Security Standard, and a root file system that cannot be written."""

    def test_the_pod_is_restricted(self, base):
        security = pod_spec(base)["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for forbidden in ("hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"):
            assert forbidden not in pod_spec(base)

    def test_the_container_is_restricted(self, base):
        assert container(base)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }

    def test_only_tmp_can_be_written(self, base):
        writable = [m["mountPath"] for m in container(base)["volumeMounts"] if not m.get("readOnly")]
        assert writable == ["/tmp"]
        _, volume = mounted_from(base, PurePosixPath("/tmp"))
        assert "sizeLimit" in volume["emptyDir"]

    def test_secrets_are_readable_by_the_group_of_the_process_and_nobody_else(self, base):
        modes = {v["name"]: v["secret"]["defaultMode"] for v in pod_spec(base)["volumes"] if "secret" in v}
        assert modes == {"credentials": 0o440, "api-tokens": 0o440}
        assert pod_spec(base)["securityContext"]["fsGroup"] == pod_spec(base)["securityContext"]["runAsGroup"]

    def test_no_token_of_the_kubernetes_api_is_mounted(self, base):
        account = one(base, "ServiceAccount")
        assert pod_spec(base)["serviceAccountName"] == account["metadata"]["name"]
        assert account["automountServiceAccountToken"] is False
        assert pod_spec(base)["automountServiceAccountToken"] is False


class TestCertificates:
    def test_files_of_the_secret_are_where_the_readme_says_and_brokers_are_checked_with_them(
        self, base, monkeypatch, tmp_path
    ):
        said = dict(re.findall(r"`(LOGWARDEN_KAFKA_SSL_\w+)=([^`]+)`", (BASE.parent / "README.md").read_text()))
        assert set(said) == {f"LOGWARDEN_KAFKA_SSL_{each}FILE" for each in ("CA", "CERT", "KEY")}
        assert settings_of(base, monkeypatch, tmp_path).kafka_security_protocol == "SSL"
        mounted = PurePosixPath(one(base, "ConfigMap", "logwarden-settings")["data"][SECRETS_DIR])
        for path in map(PurePosixPath, said.values()):
            assert path.parent == mounted
        ours = self_signed("client.example")
        files = {
            "ca.crt": self_signed("brokers.example").certificate.decode(),
            "tls.crt": ours.certificate.decode(),
            "tls.key": ours.key.decode(),
        }
        assert {PurePosixPath(path).name for path in said.values()} == set(files)
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        for name, path in said.items():
            monkeypatch.setenv(name, str(tmp_path / PurePosixPath(path).name))
        [ca] = client_arguments(load_settings())["ssl_context"].get_ca_certs()
        assert ca["subject"] == ((("commonName", "brokers.example"),),)


class TestTheJobThatCreatesTopics:
    def test_it_renders_with_the_base_as_a_restricted_pod_with_the_same_image_and_settings(self, tmp_path):
        text = (BASE.parent / "README.md").read_text()
        [job] = re.findall(r"^```yaml\n(apiVersion: batch/v1\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
        shutil.copytree(BASE, tmp_path / "base")
        folder = tmp_path / "overlay"
        folder.mkdir()
        (folder / "topics.yaml").write_text(job)
        (folder / "kustomization.yaml").write_text(
            "resources: [../base, topics.yaml]\nconfigMapGenerator:\n"
            "  - {name: logwarden-settings, behavior: merge, literals: [LOGWARDEN_DRY_RUN=false]}\n"
            "images: [{name: logwarden, newTag: 9.9.9}]\n"
        )
        manifests = render(folder)
        made = one(manifests, "Job")
        kubernetes_validate.validate(made, OLDEST_KUBERNETES, strict=True)
        pod = made["spec"]["template"]["spec"]
        [ours] = pod["containers"]
        deployed = container(manifests)
        for same in ("image", "envFrom", "securityContext"):
            assert ours[same] == deployed[same], same
        assert pod["securityContext"] == pod_spec(manifests)["securityContext"]
        assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
        secrets = one(manifests, "ConfigMap", "logwarden-settings")["data"][SECRETS_DIR]
        assert [mount["mountPath"] for mount in ours["volumeMounts"]] == [secrets]


class TestTheOverlayOfTheReadme:
    @pytest.fixture
    def overlay(self, tmp_path: Path) -> list[Manifest]:
        """The files that the README shows, each a fenced block under its name, rendered over a copy of the base."""
        text = (BASE.parent / "README.md").read_text()
        shutil.copytree(BASE, tmp_path / "base")
        folder = tmp_path / "overlays" / "example"
        folder.mkdir(parents=True)
        blocks = re.findall(r"^`([\w.-]+)`:\n\n```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        assert [name for name, _ in blocks] == ["kustomization.yaml", "settings.env", "tenants.yaml"]
        for name, content in blocks:
            (folder / name).write_text(content)
        return render(folder)

    def test_it_renders_to_valid_manifests_with_the_same_pods_selected(self, overlay):
        for manifest in overlay:
            kubernetes_validate.validate(manifest, latest_version(), strict=True)
        assert one(overlay, "Deployment")["spec"]["selector"]["matchLabels"] == POD_LABELS

    @pytest.fixture
    def settings(self, overlay, monkeypatch, tmp_path) -> Settings:
        """With what the README puts into the Secret."""
        names = re.findall(r"--from-\w+=(LOGWARDEN_\w+)=", (BASE.parent / "README.md").read_text())
        return settings_of(overlay, monkeypatch, tmp_path, **dict.fromkeys(names, "of the Secret"))

    def test_its_settings_are_accepted_and_its_first_rollout_changes_nothing(self, settings):
        assert settings.kafka_sasl_password is not None
        assert settings.dry_run

    def test_its_role_can_be_assumed_under_the_policies_that_are_shipped(self, settings):
        [assuming, _] = statements(document("service-role"))
        assert assuming["Condition"] == {"StringEquals": {"sts:ExternalId": settings.aws_external_id}}
        assert assuming["Resource"].endswith(f":role/{settings.aws_role_name}")

    def test_its_tenants_replace_those_of_the_base_and_are_accepted(self, overlay, tmp_path):
        tenants = one(overlay, "ConfigMap", "logwarden-tenants")["data"]["tenants.yaml"]
        assert tenants == (tmp_path / "overlays" / "example" / "tenants.yaml").read_text()
        assert len(load_tenant_file(tmp_path / "overlays" / "example" / "tenants.yaml")) == 1

    def test_its_image_is_named_by_digest(self, overlay):
        assert re.fullmatch(r"[\w./-]+@sha256:[0-9a-f]{64}", container(overlay)["image"])
