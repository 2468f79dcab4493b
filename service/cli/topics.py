"""`logwarden topics`."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.console import UsageError, say, warn
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from service.stream.comparison import Comparison

app = typer.Typer(help="The Kafka topics that the service uses.", no_args_is_help=True)


@app.command("create")
def create() -> None:
    """Create the topics that do not exist yet; those that do are left as they are."""
    from aiokafka.errors import KafkaError

    from service.brokers import kafka_arguments
    from service.stream.connection import NotReadyError
    from service.stream.topics import TopicError, create_topics, topic_specs

    settings = load_settings()
    try:
        results = asyncio.run(
            create_topics(kafka_arguments(settings), topic_specs(settings), replication=settings.topic_replication)
        )
    except (KafkaError, TopicError, NotReadyError, OSError) as e:
        raise UsageError(f"{settings.kafka_bootstrap_servers}: {str(e) or 'does not answer'}") from e
    for name, result in results.items():
        say(f"{name}: {result}")
    _warn_of_weak_topics(settings)


def _warn_of_weak_topics(settings: Settings) -> None:
    """Those that were there before are left as they are, and so are brokers that do as they like."""
    from service.stream.durability import Weaknesses

    try:
        found = Weaknesses.of(_compared(settings))
    except UsageError as e:
        warn(f"How they are set up could not be read: {e}")
        return
    for line in [*map(str, found.thin), *found.advice]:
        warn(line)


@app.command("list")
def list_topics(
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no broker: only show what would be created.")] = False,
) -> None:
    """Show each topic as it is, beside what would be created where they differ.

    Exit status 1 where a topic is missing, or one of the service's own is weak: it has fewer replicas than it should or needs fewer for a
    write, keeps or takes less, or is compacted where it should not be. What only differs may be meant.
    """
    from service.stream.comparison import Comparison, Verdict
    from service.stream.durability import Weaknesses
    from service.stream.topics import topic_specs

    settings = load_settings()
    specs = topic_specs(settings)
    width = max(len(spec.name) for spec in specs)
    if offline:
        for spec in specs:
            say(f"{spec.name:{width}}  {Comparison(spec, None, settings.topic_replication)}")
        return
    comparisons = _compared(settings)
    for each in comparisons:
        say(f"{each.spec.name:{width}}  {each.verdict!s:9}  {each}")
    for line in Weaknesses.of(comparisons).advice:
        warn(line)
    if any(each.verdict >= Verdict.WEAK for each in comparisons):
        raise typer.Exit(1)


def _compared(settings: Settings) -> "Sequence[Comparison]":
    """Raises UsageError."""
    from aiokafka.errors import KafkaError

    from service.brokers import kafka_arguments
    from service.stream.comparison import compared

    try:
        return asyncio.run(compared(kafka_arguments(settings), settings))
    except (KafkaError, OSError) as e:
        raise UsageError(f"{settings.kafka_bootstrap_servers}: {str(e) or 'does not answer'}") from e
