"""`logwarden topics`."""

import asyncio
from collections.abc import Collection

import typer

from service.cli.console import UsageError, say, warn
from service.settings import Settings, load_settings

app = typer.Typer(help="The Kafka topics that the service uses.", no_args_is_help=True)


@app.command("create")
def create() -> None:
    """Create the topics that do not exist yet; those that do are left as they are."""
    from aiokafka.errors import KafkaError  # noqa: PLC0415

    from service.stream.connection import NotReadyError, client_arguments  # noqa: PLC0415
    from service.stream.topics import TopicError, create_topics, topic_specs  # noqa: PLC0415

    settings = load_settings()
    try:
        results = asyncio.run(
            create_topics(client_arguments(settings), topic_specs(settings), replication=settings.topic_replication)
        )
    except (KafkaError, TopicError, NotReadyError, OSError) as e:
        raise UsageError(f"{settings.kafka_bootstrap_servers}: {str(e) or 'does not answer'}") from e
    for name, result in results.items():
        say(f"{name}: {result}")
    if settings.topic_replication != 1:
        _warn_of_weak_topics(settings, results)


def _warn_of_weak_topics(settings: Settings, names: Collection[str]) -> None:
    from aiokafka.errors import KafkaError  # noqa: PLC0415

    from service.stream.connection import client_arguments  # noqa: PLC0415
    from service.stream.durability import MEND, weak_topics  # noqa: PLC0415

    try:
        weak = asyncio.run(weak_topics(client_arguments(settings), names))
    except (KafkaError, OSError) as e:
        warn(f"How durable they are could not be read: {e}")
        return
    for line in [*map(str, weak), MEND] if weak else []:
        warn(line)


@app.command("list")
def list_topics() -> None:
    """Show the topics, with the partitions, replicas and settings that they would be created with."""
    from service.stream.topics import topic_specs  # noqa: PLC0415

    settings = load_settings()
    replicas = "the broker's default of" if settings.topic_replication == -1 else settings.topic_replication
    for spec in topic_specs(settings):
        config = " ".join(f"{name}={value}" for name, value in spec.config.items())
        say(f"{spec.name}  {spec.partitions} partitions  {replicas} replicas  {config}")
