"""An explanation reads as the way to a command, or to why there is none."""

import json
from typing import Any

from service.domain.events import EventParser, Finding, Step
from tests.events import EVENTS, custom_parser


def explain(body: Any) -> list[tuple[str, str, str]]:
    steps = EventParser().explain(body if isinstance(body, bytes) else json.dumps(body).encode())
    return [(step.finding.value, step.path, step.text) for step in steps]


def of_file(name: str, parser: EventParser | None = None) -> list[Step]:
    return (parser or EventParser()).explain((EVENTS / name).read_bytes())


def test_each_envelope_is_named_with_its_place_and_the_command_comes_last():
    steps = [(step.finding.value, step.path, step.text) for step in of_file("sns_in_sqs_batch_of_lambda.json")]
    assert steps == [
        ("looked", "value", "the first look at the bytes cannot rule it out"),
        ("opened", "value", "batch of records"),
        ("opened", "Records[0]", "SQS message"),
        ("opened", "Records[0].body", "JSON in a string"),
        ("opened", "Records[0].body", "SNS notification"),
        ("opened", "Records[0].body.Message", "JSON in a string"),
        ("opened", "Records[0].body.Message", "EventBridge event"),
        ("command", "Records[0].body.Message.detail", "created: ensure 111122223333:eu-west-1:/acme/orders"),
    ]


def test_what_the_first_look_drops_is_explained_all_the_same():
    look, step = of_file("record_of_s3.json")
    assert "drops it" in look.text
    assert (step.finding, step.text) == (
        Finding.IRRELEVANT,
        "'GetBucketAcl' of 's3.amazonaws.com' is no call that matters here",
    )


def test_a_call_that_failed_is_explained_by_its_error():
    assert of_file("record_created_already_exists.json")[-1].text == "the call failed: 'ResourceAlreadyExistsException'"


def test_of_a_batch_every_entry_is_explained():
    findings = [step.finding for step in of_file("cloudtrail_file_with_one_bad_record.json")]
    assert findings.count(Finding.MALFORMED) == 1
    assert findings.count(Finding.COMMAND) == 2
    assert findings.count(Finding.IRRELEVANT) > 0


def test_the_key_that_our_own_event_says_is_shown_as_what_it_is():
    text = of_file("own_event_with_key_and_tags.json")[-1].text
    assert "it says that its key is 'arn:aws:kms:" in text
    assert text.endswith("and is looked at all the same")


def test_an_event_of_another_kind_is_explained():
    step = of_file("custom/catalogue_of_another_kind.json", custom_parser())[-1]
    assert (step.finding, "another kind" in step.text) == (Finding.IRRELEVANT, True)


def test_a_record_without_a_value_is_explained():
    [step] = EventParser().explain(None)[1:]
    assert step.finding is Finding.MALFORMED


def test_an_explanation_shows_no_value_of_an_unknown_shape():
    assert "s3cr3t" not in str(explain({"password": "s3cr3t"}))
