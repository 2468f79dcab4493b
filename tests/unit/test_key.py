import pytest

from service.domain.key import KeyFacts, UnknownKey, UnusableKey, UsableKey, absent, elsewhere, unseen, wrong_with
from service.domain.log_group import KeyAlias, KeyArn, LogGroup, Region
from service.domain.outcome import FailureClass

KEY = KeyArn("arn:aws:kms:eu-west-1:111122223333:key/1")
REPLICA = KeyArn("arn:aws:kms:eu-west-1:111122223333:key/mrk-1")
ALIAS = KeyAlias("arn:aws:kms:eu-west-1:111122223333:alias/acme")
GROUP = LogGroup.of("111122223333", "eu-west-1", "/app/a")


def facts(*, state: str = "Enabled", spec: str = "SYMMETRIC_DEFAULT", usage: str = "ENCRYPT_DECRYPT") -> KeyFacts:
    return KeyFacts(arn=KEY, state=state, spec=spec, usage=usage)


@pytest.mark.parametrize("state", ["Enabled", "Updating"])
def test_nothing_is_wrong_with_a_symmetric_key_that_encrypts(state):
    assert wrong_with(facts(state=state)) is None


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("Creating", "wait"),
        ("Disabled", "enable it"),
        ("PendingDeletion", "cancel its deletion"),
        ("PendingImport", "import its key material"),
        ("PendingReplicaDeletion", "another key"),
        ("Unavailable", "custom key store"),
    ],
)
def test_a_state_in_which_kms_encrypts_nothing_comes_with_what_to_do_about_it(state, advice):
    finding = wrong_with(facts(state=state))
    assert isinstance(finding, UnusableKey)
    assert finding.failure is FailureClass.KEY_NOT_FOUND
    assert advice in finding.detail


def test_a_state_that_is_newer_than_this_release_stops_no_call():
    finding = wrong_with(facts(state="Rehoming\n"))
    assert isinstance(finding, UnknownKey)
    assert finding.key == KEY
    assert r"'Rehoming\n'" in finding.detail


@pytest.mark.parametrize("change", [{"spec": "RSA_4096"}, {"usage": "SIGN_VERIFY"}, {"spec": "NEW", "usage": "NEW"}])
def test_a_key_of_another_kind_is_unusable_even_if_it_is_disabled_too(change):
    finding = wrong_with(facts(state="Disabled", **change))
    assert isinstance(finding, UnusableKey)
    assert finding.failure is FailureClass.KEY_NOT_USABLE


@pytest.mark.parametrize("ref", [KEY, REPLICA, ALIAS])
def test_a_key_of_the_log_groups_region_is_not_elsewhere(ref):
    assert elsewhere(ref, Region("eu-west-1")) is None


@pytest.mark.parametrize(("ref", "advice"), [(KEY, "cannot be used"), (REPLICA, "name that one"), (ALIAS, "cannot be")])
def test_a_key_of_another_region_is_unusable_and_a_multi_region_one_has_a_replica(ref, advice):
    finding = elsewhere(ref, Region("us-east-1"))
    assert isinstance(finding, UnusableKey)
    assert finding.failure is FailureClass.KEY_NOT_USABLE
    assert advice in finding.detail


def test_absent_says_of_what_and_in_whose_words():
    detail = absent(KEY, "NotFoundException: x").detail
    assert f"There is no such key: {KEY}. Correct its ARN in the tenant registry" in detail
    assert detail.endswith("KMS said: NotFoundException: x")
    assert "no such alias" in absent(ALIAS, "x").detail


@pytest.mark.parametrize("failure", FailureClass, ids=lambda failure: failure.label)
def test_a_key_arn_is_used_unseen_whatever_went_wrong(failure):
    assert unseen(KEY, failure, "why") == UnknownKey(key=KEY, detail="why")


@pytest.mark.parametrize("failure", FailureClass, ids=lambda failure: failure.label)
def test_trouble_at_kms_holds_no_lane_and_slows_none_down(failure):
    finding = unseen(ALIAS, failure, "why")
    assert isinstance(finding, UnusableKey)
    assert finding.failure not in {FailureClass.THROTTLED, FailureClass.UNREACHABLE}
    assert "own ARN needs no such look" in finding.detail


def test_an_explanation_says_what_the_policy_lacks_and_the_statement_that_mends_it():
    text = UsableKey(key=KEY, policy='{"Statement": []}').explain(GROUP)
    assert "does not allow kms:Encrypt" in text
    assert 'Add to it: {"Sid": "CloudWatchLogs"' in text


def test_an_explanation_of_a_policy_that_allows_the_key_points_to_what_takes_time():
    allow = '{"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}]}'
    assert "takes some minutes" in UsableKey(key=KEY, policy=allow).explain(GROUP)


def test_what_could_not_be_read_is_said():
    assert "could not be read: no right" in UsableKey(key=KEY, unread="no right").explain(GROUP)
    assert "look failed by: no right" in UnknownKey(key=KEY, detail="no right").explain(GROUP)


@pytest.mark.parametrize("finding", [UsableKey(key=KEY, unread="x"), UnknownKey(key=KEY, detail="x")])
def test_where_a_key_or_its_policy_is_not_seen_it_is_said_what_has_to_be_there(finding):
    text, elsewhere_text = finding.explain(GROUP), finding.explain(LogGroup.of("444455556666", "eu-west-1", "/app/a"))
    assert "let logs.eu-west-1.amazonaws.com use the key for account 111122223333 (k8s/iam/key-policy-statement" in text
    assert "key-policy-other-account" not in text
    assert "account 444455556666 (k8s/iam/key-policy-statement" in elsewhere_text
    assert "k8s/iam/key-policy-other-account.json" in elsewhere_text


def test_a_key_that_was_not_seen_may_be_absent_and_it_is_said_where_to_look():
    text = UnknownKey(key=KEY, detail="x").explain(GROUP)
    assert "absent, not enabled or closed" in text
    assert f"`aws kms describe-key --region eu-west-1 --key-id {KEY}` in account 111122223333" in text
