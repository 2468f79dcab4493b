"""Apache Kafka that forbids whatever it has not been told to allow: users with a password, and rights that a test gives and takes."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from pydantic import SecretStr

from service.sandbox.kafka.apache import ApacheKafka, start_apache
from service.sandbox.process import free_port
from service.settings import Role
from tests.support.kafka_rights import Right

PASSWORD = "correct-horse"
USERS = [role.value for role in Role]
_CONFIG = {
    "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,CLIENT:SASL_PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.client.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule required "
    + " ".join(f'user_{user}="{PASSWORD}"' for user in USERS)
    + ";",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",  # the broker itself, and the tests, by the other listener
}
_KINDS = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP}


@asynccontextmanager
async def guarded_kafka() -> AsyncIterator[tuple[ApacheKafka, str]]:
    """A broker, and the address at which it asks who is there."""
    async with start_apache(config=_CONFIG) as broker:
        port = free_port()
        lines = broker._properties_file.read_text().splitlines()
        lines = [f"{line},CLIENT://127.0.0.1:{port}" if "listeners=" in line else line for line in lines]
        broker._properties_file.write_text("\n".join(lines) + "\n")
        await broker.restart()
        await _listens(port)  # its listeners open one after the other, and it counts as started with the first
        yield broker, f"127.0.0.1:{port}"


async def _listens(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            with suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)


def user_settings(address: str, user: str) -> dict[str, Any]:
    """The settings of a process that is this user."""
    return {
        "kafka_bootstrap_servers": address,
        "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_sasl_username": user,
        "kafka_sasl_password": SecretStr(PASSWORD),
    }


def allow(broker: ApacheKafka, user: str, rights: Iterable[Right], names: str) -> None:
    """Let a user do this, and nothing else; `names` is what the names of this test have for `logwarden`."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    for done in admin.create_acls([_acl(AclBinding, user, right, names) for right in rights]).values():
        done.result(timeout=20)


def forbid(broker: ApacheKafka, user: str, rights: Iterable[Right], names: str) -> None:
    """Take back what `allow` gave."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    for done in admin.delete_acls([_acl(AclBindingFilter, user, right, names) for right in rights]).values():
        assert done.result(timeout=20), "there was such a right"


def _acl(kind: Any, user: str, right: Right, names: str) -> Any:
    return kind(
        _KINDS[right.resource],
        right.name.replace("logwarden", names, 1).removesuffix("*"),
        ResourcePatternType.PREFIXED if right.name.endswith("*") else ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        AclOperation[right.operation.upper()],
        AclPermissionType.ALLOW,
    )
