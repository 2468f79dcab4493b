"""Settings: read from environment and secrets folder, refused with the variable's name."""

import json
import os

import pytest
from pydantic import SecretStr

from service.settings import PREFIX, Role, Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def test_every_setting_has_a_default_and_a_description():
    assert Settings().rate_per_s == 5.0, "AWS's quota"
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_the_environment_wins_over_defaults(monkeypatch):
    monkeypatch.setenv("LOGWARDEN_ROLES", "ingest, worker")
    monkeypatch.setenv("LOGWARDEN_RETRY_DELAYS_S", "1,2.5")
    monkeypatch.setenv("LOGWARDEN_LANE_RATES_PER_S", '{"111122223333:eu-west-1": 2.5}')
    monkeypatch.setenv("LOGWARDEN_DRY_RUN", "true")
    settings = load_settings()
    assert settings.roles == {Role.INGEST, Role.WORKER}
    assert settings.retry_delays_s == [1.0, 2.5]
    assert settings.retry_topics == ["logwarden.retry.1", "logwarden.retry.2"]
    assert settings.lane_rates_per_s == {"111122223333:eu-west-1": 2.5}
    assert settings.dry_run


def test_a_password_comes_from_a_file_and_is_not_shown(monkeypatch, tmp_path):
    (tmp_path / "LOGWARDEN_KAFKA_SASL_PASSWORD").write_text("hush\n")
    monkeypatch.setenv("LOGWARDEN_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("LOGWARDEN_KAFKA_SASL_USERNAME", "logwarden")
    monkeypatch.setenv("LOGWARDEN_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    settings = load_settings()
    assert settings.kafka_sasl_password is not None
    assert settings.kafka_sasl_password.get_secret_value() == "hush"
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("LOGWARDEN_RATE_PER_SECOND", "5", "no such setting"),
        ("LOGWARDEN_RATE_PER_S", "0", "greater than 0"),
        ("LOGWARDEN_RATE_PER_S", "fast", "number"),
        ("LOGWARDEN_ROLES", "ingest,janitor", "ROLES"),
        ("LOGWARDEN_ROLES", ",", "at least one role"),
        ("LOGWARDEN_RETRY_DELAYS_S", "30,10", "ascending"),
        (
            "LOGWARDEN_TOPIC_REPLICATION",
            "0",
            "^LOGWARDEN_TOPIC_REPLICATION: .* one replica at least; -1 is for the brokers' default$",
        ),
        ("LOGWARDEN_TOPIC_REPLICATION", "-2", "^LOGWARDEN_TOPIC_REPLICATION: .*-1"),
        ("LOGWARDEN_TOPIC_REPLICATION", "32768", "^LOGWARDEN_TOPIC_REPLICATION: .*32767"),
        ("LOGWARDEN_SWEEP_INTERVAL_S", "1800", "3600 s apart at least"),
        ("LOGWARDEN_LANE_RATES_PER_S", '{"eu-west-1": 1}', "ACCOUNT:REGION"),
        ("LOGWARDEN_LANE_RATES_PER_S", '{"111122223333:eu-west-1": 0}', "rate"),
        ("LOGWARDEN_LANE_RATES_PER_S", "{bad", "^LOGWARDEN_LANE_RATES_PER_S: is not JSON: .*column 2"),
        ("LOGWARDEN_LANE_RATES_PER_S", "5", "^LOGWARDEN_LANE_RATES_PER_S: .*dictionary"),
        ("LOGWARDEN_AWS_ENDPOINT_URLS", "nope", "^LOGWARDEN_AWS_ENDPOINT_URLS: is not JSON"),
        ("LOGWARDEN_AWS_ROLE_SESSION_TAGS", "[" * 100_000, "^LOGWARDEN_AWS_ROLE_SESSION_TAGS: is not JSON"),
        (
            "LOGWARDEN_WORK_TOPIC",
            "logwarden.events",
            "^LOGWARDEN_SOURCE_TOPICS, LOGWARDEN_WORK_TOPIC: two topics have one name, logwarden.events$",
        ),
        ("LOGWARDEN_SOURCE_TOPICS", "a,b,a", "^LOGWARDEN_SOURCE_TOPICS: two topics have one name, a$"),
        (
            "LOGWARDEN_KAFKA_SECURITY_PROTOCOL",
            "SASL_SSL",
            "^LOGWARDEN_KAFKA_SASL_USERNAME, LOGWARDEN_KAFKA_SASL_PASSWORD: a SASL protocol needs both$",
        ),
        ("LOGWARDEN_REGISTRY_MAX_STALE_S", "1", "^LOGWARDEN_REGISTRY_MAX_STALE_S, LOGWARDEN_REGISTRY_TTL_S: "),
        ("LOGWARDEN_REGISTRY", "http://example.com/x", "^LOGWARDEN_REGISTRY: has to be https://"),
        ("LOGWARDEN_REGISTRY", "http://localhost.example.com/x", "https://"),
        ("LOGWARDEN_REGISTRY", "http://[bad/x", "https://"),
        ("LOGWARDEN_REGISTRY_DYNAMODB_REGION", "mars", "^LOGWARDEN_REGISTRY_DYNAMODB_REGION: .*Region"),
        ("LOGWARDEN_KAFKA_BOOTSTRAP_SERVERS", "broker:kafka", "HOST:PORT"),
        ("LOGWARDEN_KAFKA_BOOTSTRAP_SERVERS", "broker-1:9092, broker-2", "HOST:PORT"),
        ("LOGWARDEN_AWS_OWN_ACCOUNT", "1234", "^LOGWARDEN_AWS_OWN_ACCOUNT: account '1234' is not .* 12 digits"),
        ("LOGWARDEN_AWS_STS_REGION", "mars", "^LOGWARDEN_AWS_STS_REGION: region 'mars'"),
        ("LOGWARDEN_AWS_ROLE_NAME", "bad name!", "^LOGWARDEN_AWS_ROLE_NAME: .*pattern"),
        ("LOGWARDEN_AWS_ROLE_NAME", "x" * 65, "pattern"),
        ("LOGWARDEN_AWS_EXTERNAL_ID", "a b", "^LOGWARDEN_AWS_EXTERNAL_ID: .*pattern"),
        ("LOGWARDEN_HTTP_MAX_GROUPS", "1501", "^LOGWARDEN_HTTP_MAX_GROUPS: .*1500"),
        ("LOGWARDEN_AWS_ENDPOINT_URL", "logs.example", "HOST"),
        ("LOGWARDEN_AWS_ENDPOINT_URL", "https://logs.{account}.example", "HOST"),
        ("LOGWARDEN_AWS_ENDPOINT_URL", "https://user:secret@logs.example", "HOST"),
        ("LOGWARDEN_AWS_ENDPOINT_URL", "https://logs.example/?region=eu-west-1", "HOST"),
        ("LOGWARDEN_AWS_ENDPOINT_URLS", '{"s3": "https://s3.example"}', "logs, kms, sts or dynamodb"),
        ("LOGWARDEN_AWS_ENDPOINT_URLS", '{"logs:EU": "https://logs.example"}', "Region"),
        ("LOGWARDEN_AWS_ENDPOINT_URLS", '{"logs:eu-west-1": "logs.example"}', "HOST"),
        ("LOGWARDEN_AWS_ROLE_SESSION_NAME", "log warden", "pattern"),
        ("LOGWARDEN_AWS_ROLE_SESSION_TAGS", '{"team": 1}', "string"),
        ("LOGWARDEN_AWS_ROLE_SESSION_TAGS", '{"": "x"}', "1 to 128"),
        ("LOGWARDEN_AWS_ROLE_SESSION_TAGS", json.dumps({"team": "x" * 257}), "256"),
        ("LOGWARDEN_AWS_ROLE_SESSION_TAGS", '{"aws:team": "x"}', "AWS's own"),
        ("LOGWARDEN_AWS_ROLE_SESSION_TAGS", '{"team": "a", "Team": "b"}', "case"),
        ("LOGWARDEN_AWS_ROLE_SESSION_TAGS", '{"team": "a;b"}', "';' is no letter"),
        ("LOGWARDEN_AWS_ROLE_SESSION_TAGS", json.dumps({f"tag{n}": "" for n in range(51)}), "STS takes 50"),
        ("LOGWARDEN_SECRETS_DIR", "/no/such/folder", "SECRETS_DIR"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_a_reason(monkeypatch, name, value, says):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=says):
        load_settings()


@pytest.mark.parametrize("address", ["http://127.0.0.1:8000/x", "http://localhost/x", "http://[::1]:80/x"])
def test_a_registry_on_this_machine_needs_no_tls(monkeypatch, address):
    monkeypatch.setenv("LOGWARDEN_REGISTRY", address)
    assert load_settings().registry == SecretStr(address)


@pytest.mark.parametrize("name", ["logwarden", "/platform/logs/Log_Warden-1", "platform/logwarden"])
def test_a_role_may_have_a_path(monkeypatch, name):
    monkeypatch.setenv("LOGWARDEN_AWS_ROLE_NAME", name)
    assert load_settings().aws_role_name == name


def test_a_secret_that_is_not_json_is_named_too(monkeypatch, tmp_path):
    (tmp_path / "LOGWARDEN_AWS_ROLE_SESSION_TAGS").write_text("team=platform")
    monkeypatch.setenv("LOGWARDEN_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match=r"^LOGWARDEN_AWS_ROLE_SESSION_TAGS: is not JSON"):
        load_settings()


def test_a_secret_that_is_no_text_is_said_and_not_shown(monkeypatch, tmp_path):
    (tmp_path / "LOGWARDEN_KAFKA_SASL_PASSWORD").write_bytes(b"\xffhush")
    monkeypatch.setenv("LOGWARDEN_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match=r"^LOGWARDEN_SECRETS_DIR: ") as raised:
        load_settings()
    assert "hush" not in str(raised.value)


def test_session_tags_of_any_language_are_taken(monkeypatch):
    monkeypatch.setenv("LOGWARDEN_AWS_ROLE_SESSION_TAGS", '{"team": "plattform münchen/1", "kosten-stelle": ""}')
    assert load_settings().aws_role_session_tags == {"team": "plattform münchen/1", "kosten-stelle": ""}


def test_a_misspelt_secret_is_refused_too(monkeypatch, tmp_path):
    (tmp_path / "LOGWARDEN_KAFKA_PASSWORD").write_text("hush")
    monkeypatch.setenv("LOGWARDEN_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match="LOGWARDEN_KAFKA_PASSWORD: no such setting"):
        load_settings()


def test_all_that_is_wrong_is_said_at_once(monkeypatch):
    monkeypatch.setenv("LOGWARDEN_RATE_PER_S", "0")
    monkeypatch.setenv("LOGWARDEN_HTTP_PORT", "99999")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert "LOGWARDEN_RATE_PER_S" in str(raised.value)
    assert "LOGWARDEN_HTTP_PORT" in str(raised.value)
