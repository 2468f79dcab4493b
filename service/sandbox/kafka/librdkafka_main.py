"""librdkafka's built-in broker as a process: the far end of `service.sandbox.kafka`, which says what it can do.

Its assertions abort the process they run in, so that must not be the service's. It imports nothing of ours. Once it
listens it writes a line of JSON, `{"bootstrap_servers": ...}`; then it reads a command a line on stdin and answers each
with a line, `{"error": ...}` when it refuses. It ends with its stdin, and so with its parent, however that one ends.

    {"create_topics": {NAME: PARTITIONS, ...}}
    {"push_errors": {"api_key": KEY, "codes": [CODE, ...]}}
    {"set_reachable": true or false}

The functions behind are in librdkafka's rdkafka_mock.h, public but experimental; confluent-kafka does not wrap them.
"""

import ctypes
import json
import os
import sys
import time
from collections.abc import Mapping
from ctypes import POINTER, c_char_p, c_int, c_int16, c_int32, c_size_t, c_void_p
from typing import Any

_PRODUCER = 0  # RD_KAFKA_PRODUCER: a broker has to belong to some client, which is never used
_EVERY_BROKER = -1
_LOG_WARNING = b"4"  # syslog's level; at 5 it tells that the unused client has no bootstrap servers
# The broker's thread answers a command before it empties its wake-up pipe. A command that comes in between loses its
# wake-up and waits for the thread's next round: eight topics in a row took one to two seconds.
_SETTLE_S = 0.002

# name -> result and arguments: ctypes would pass pointers as 32-bit integers
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "rd_kafka_conf_new": (c_void_p, []),
    "rd_kafka_conf_set": (c_int, [c_void_p, c_char_p, c_char_p, c_char_p, c_size_t]),
    "rd_kafka_new": (c_void_p, [c_int, c_void_p, c_char_p, c_size_t]),
    "rd_kafka_err2str": (c_char_p, [c_int]),
    "rd_kafka_mock_cluster_new": (c_void_p, [c_void_p, c_int]),
    "rd_kafka_mock_cluster_bootstraps": (c_char_p, [c_void_p]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [c_void_p, c_int32]),
    "rd_kafka_mock_topic_create": (c_int, [c_void_p, c_char_p, c_int, c_int]),
    "rd_kafka_mock_push_request_errors_array": (None, [c_void_p, c_int16, c_size_t, POINTER(c_int)]),
    "rd_kafka_mock_broker_set_up": (c_int, [c_void_p, c_int32]),
    "rd_kafka_mock_broker_set_down": (c_int, [c_void_p, c_int32]),
}


class _Refusal(Exception):  # noqa: N818 - an answer to the parent, not a failure of this process
    pass


def _librdkafka() -> ctypes.CDLL:
    """The librdkafka in confluent-kafka's wheel, reached through the extension module that links to it.

    Its own file name carries a hash and differs by platform; a module's handle finds the symbols of what it links to.
    """
    from confluent_kafka import cimpl  # noqa: PLC0415 - here, so that importing this module needs no extra

    library = ctypes.CDLL(cimpl.__file__)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class _Broker:
    """A cluster of one broker, on a free port of 127.0.0.1, that lasts as long as the process."""

    def __init__(self) -> None:
        self._library = _librdkafka()
        conf = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(conf, b"log_level", _LOG_WARNING, None, 0)
        why = ctypes.create_string_buffer(512)
        client = self._library.rd_kafka_new(_PRODUCER, conf, why, len(why))
        if client is None:
            raise RuntimeError(f"librdkafka made no client: {why.value.decode()}")
        self._cluster = self._library.rd_kafka_mock_cluster_new(client, 1)
        if self._cluster is None:
            raise RuntimeError("librdkafka made no broker")
        # By default the first member of a group waits three seconds for others.
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)

    @property
    def bootstrap_servers(self) -> str:
        servers: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return servers.decode()

    def obey(self, command: Mapping[str, Any]) -> None:
        match command:
            case {"create_topics": dict(topics)}:
                for name, partitions in topics.items():
                    self._create_topic(name, partitions)
            case {"push_errors": {"api_key": int(api_key), "codes": list(codes)}}:
                errors = (c_int * len(codes))(*codes)
                self._library.rd_kafka_mock_push_request_errors_array(self._cluster, api_key, len(codes), errors)
            case {"set_reachable": True}:
                self._check(self._library.rd_kafka_mock_broker_set_up(self._cluster, _EVERY_BROKER))
            case {"set_reachable": False}:
                self._check(self._library.rd_kafka_mock_broker_set_down(self._cluster, _EVERY_BROKER))
            case _:
                raise _Refusal("no such command")

    def _create_topic(self, name: str, partitions: int) -> None:
        if partitions < 1:
            # librdkafka would divide by zero later
            raise _Refusal(f"a topic has at least one partition, not {partitions}")
        self._check(self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1))

    def _check(self, code: int) -> None:
        time.sleep(_SETTLE_S)
        if code != 0:
            raise _Refusal(self._library.rd_kafka_err2str(code).decode())


def main() -> None:
    broker = _Broker()
    _answer({"bootstrap_servers": broker.bootstrap_servers})
    for line in sys.stdin:
        try:
            broker.obey(json.loads(line))
        except _Refusal as refusal:
            _answer({"error": str(refusal)})
        else:
            _answer({})
    # The library's threads are still serving: nothing is worth waiting for, and exit handlers would race them.
    os._exit(0)


def _answer(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
