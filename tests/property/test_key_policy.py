"""A key policy is a tenant's text: reading it never raises, and never says more than the sandbox's own evaluator would bear out.

That evaluator shares no code with the reading and knows no "unknown": it is asked once for every way in which the unknown may be.
"""

import itertools
import json
import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.key_policy import LOGS_ACTIONS, LOGS_CONTEXT_KEY, PolicyVerdict, read_key_policy
from service.domain.log_group import KeyArn, LogGroup
from service.domain.policy_conditions import like
from service.sandbox.aws.policy import PolicyRequest, is_allowed

GROUP = LogGroup.of("111122223333", "eu-west-1", "/app/a")
KEY = KeyArn("arn:aws:kms:eu-west-1:111122223333:key/1")
LOGS = "logs.eu-west-1.amazonaws.com"

names = st.sampled_from([LOGS, "logs.us-east-1.amazonaws.com", "logs.amazonaws.com", "ec2.amazonaws.com"])
principals = st.one_of(
    st.just("*"),
    st.fixed_dictionaries(
        {}, optional={"Service": names | st.lists(names), "AWS": st.sampled_from(["*", "111122223333"])}
    ),
)
actions = st.sampled_from([*LOGS_ACTIONS, "kms:*", "*", "KMS:re*", "kms:?ncrypt", "kms:Generate*", "s3:*"])
resources = st.sampled_from(["*", KEY, "arn:aws:kms:*:*:key/*", "arn:aws:kms:eu-west-1:111122223333:key/2"])
operators = st.sampled_from(
    [
        "StringEquals",
        "StringNotEquals",
        "StringLike",
        "StringNotLike",
        "ArnLike",
        "ArnNotEquals",
        "StringEqualsIgnoreCase",
    ]
)
WANTED = {
    LOGS_CONTEXT_KEY: [GROUP.arn, f"{GROUP.arn}:*", "arn:aws:logs:*", "arn:aws:logs:*:111122223333:log-group:*", "o-1"],
    "aws:SourceAccount": ["111122223333", "444455556666", "*"],
    "aws:SourceArn": [GROUP.arn, "arn:aws:logs:*:111122223333:*", "arn:aws:logs:us-*:*:*"],
    "kms:ViaService": [LOGS, "ec2.*.amazonaws.com"],
    "aws:PrincipalOrgID": ["o-1", "o-2", "o-*"],
}
conditions = st.dictionaries(
    st.builds(str.__add__, operators, st.sampled_from(["", "IfExists"])),
    st.sampled_from(sorted(WANTED)).flatmap(
        lambda key: st.fixed_dictionaries(
            {key: st.sampled_from(WANTED[key]) | st.lists(st.sampled_from(WANTED[key]), min_size=1, max_size=2)}
        )
    ),
    min_size=1,
    max_size=2,
)


@st.composite
def statements(draw: st.DrawFn) -> dict[str, Any]:
    """One that is right, but for some of its parts: where everything is left to chance, nearly nothing is ever allowed."""
    fields: dict[str, Any] = {"Effect": "Allow", "Principal": {"Service": LOGS}, "Action": "kms:*", "Resource": "*"}
    changed = draw(st.sets(st.sampled_from(["Effect", "Principal", "Action", "Resource", "Condition"]), max_size=2))
    values = {"Principal": principals, "Action": actions | st.lists(actions, min_size=1), "Resource": resources}
    if "Effect" in changed:
        fields["Effect"] = "Deny"
    for name in sorted(changed & values.keys()):
        del fields[name]
        fields[draw(st.sampled_from([name, name, f"Not{name}"]))] = draw(values[name])
    if "Condition" in changed:
        fields["Condition"] = draw(conditions)
    return fields


policies = st.lists(statements(), min_size=1, max_size=2)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["Statement", "Effect", "Principal", "Action", "Resource", "Condition", "Service", "Null", "Sid"]
            )
            | st.text(max_size=10),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


def judgements(policy: list[dict[str, Any]]) -> set[bool]:
    """Every answer that the evaluator gives, over all that is unknown of the request."""
    unknown: list[list[dict[str, str]]] = [
        [{}, {"aws:SourceAccount": GROUP.account}],
        [{}, {"aws:SourceArn": GROUP.arn}, {"aws:SourceArn": f"{GROUP.arn}:*"}],
        [{}, {"kms:ViaService": LOGS}],
        [{}, {"aws:PrincipalOrgID": "o-1"}, {"aws:PrincipalOrgID": "o-2"}],
    ]
    text = json.dumps(policy)
    unknown = [[each for each in parts if all(name in text for name in each)] for parts in unknown]
    found = set()
    for also in ((), ("logs.amazonaws.com",)):
        principal = frozenset(("Service", name) for name in (LOGS, *also))
        for parts in itertools.product(*unknown):
            context = {LOGS_CONTEXT_KEY: GROUP.arn}
            for part in parts:
                context |= part
            requests = (
                PolicyRequest(principals=principal, action=a, resource=KEY, context=context) for a in LOGS_ACTIONS
            )
            found.add(all(is_allowed({"Statement": policy}, request) for request in requests))
    return found


def read(policy: list[Any]) -> Any:
    return read_key_policy(json.dumps({"Statement": policy}), key=KEY, log_group=GROUP)


@settings(max_examples=500, deadline=None)  # most are told apart by one condition of one statement
@given(policies)
def test_what_is_told_is_true_whatever_is_unknown(policy):
    told = {
        PolicyVerdict.ALLOWS: {True},
        PolicyVerdict.DENIES: {False},
        PolicyVerdict.MISSES: {False},
        PolicyVerdict.CANNOT_TELL: {True, False},
    }[read(policy).verdict]
    assert judgements(policy) <= told


@settings(deadline=None)
@given(policies)
def test_what_depends_on_nothing_unknown_is_told(policy):
    plain = [
        {name: value for name, value in each.items() if name != "Condition"}
        for each in policy
        if "logs.amazonaws.com" not in json.dumps(each)
    ]
    assert read(plain).verdict is not PolicyVerdict.CANNOT_TELL


@settings(deadline=None)
@given(policies)
def test_the_remedy_adds_what_is_missing(policy):
    finding = read(policy)
    if finding.remedy:
        mended = read([*policy, json.loads(finding.remedy)])
        assert mended.verdict in {PolicyVerdict.ALLOWS, PolicyVerdict.CANNOT_TELL}
        denies = any(each["Effect"] == "Deny" for each in policy)
        assert mended.verdict is PolicyVerdict.ALLOWS or denies


@settings(deadline=None)
@given(json_values)
def test_no_json_value_raises_and_what_is_said_is_one_line_of_ascii(value):
    finding = read_key_policy(json.dumps(value), key=KEY, log_group=GROUP)
    assert finding.detail.isascii()
    assert finding.detail.isprintable()


@settings(deadline=None)
@given(st.lists(json_values, max_size=4))
def test_no_statement_raises(statements):
    assert read(statements).detail.isprintable()


@settings(deadline=None)
@given(st.text())
def test_no_text_raises(text):
    assert read_key_policy(text, key=KEY, log_group=GROUP).verdict


@given(st.text("a?*", max_size=12), st.text("ab", max_size=12))
def test_wildcards_match_as_their_definition_says(pattern, text):
    assert like(pattern, text) is naive_like(pattern, text)


def naive_like(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(naive_like(pattern[1:], text[start:]) for start in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and naive_like(pattern[1:], text[1:])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.sampled_from(["*a", "?*", "*a?", "**a"]))
def test_no_pattern_takes_long(repeats, unit):
    text = "a" * 600
    started_s = time.process_time()
    for number in range(20):
        like(f"{unit * repeats * 10}{number}", text)
    assert time.process_time() - started_s < 1.0
