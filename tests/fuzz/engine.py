"""`python -m tests.fuzz.engine ARGUMENTS-OF-LIBFUZZER...`: one run, in a process of its own, since libFuzzer ends the process."""

import base64
import gzip
import json
import random
import sys
import zlib

import atheris

with atheris.instrument_imports(
    include=["service.domain.events", "service.domain.command", "service.domain.log_group"]
):
    from tests.fuzz.target import check


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _packed(value: bytes) -> str:
    return base64.b64encode(gzip.compress(value, mtime=0)).decode()


_WRAPS = (
    lambda value: gzip.compress(value, mtime=0),
    lambda value: b"\0\0\0\0\x07" + value,
    lambda value: json.dumps(_text(value)).encode(),
    lambda value: b'{"Records":[' + value + b"]}",
    lambda value: json.dumps({"Records": [{"body": _text(value)}]}).encode(),
    lambda value: json.dumps({"Type": "Notification", "Message": _text(value)}).encode(),
    lambda value: b'{"source":"aws.logs","account":"111122223333","region":"eu-west-1","detail":' + value + b"}",
    lambda value: b'{"specversion":"1.0","data":' + value + b"}",
    lambda value: json.dumps({"awslogs": {"data": _packed(value)}}).encode(),
    lambda value: json.dumps({"records": [{"data": base64.b64encode(value).decode()}]}).encode(),
    lambda value: (
        b'{"eventVersion":"1.1","eventSource":"s3.amazonaws.com","eventName":"GetBucketAcl","x":' + value + b"}"
    ),
    lambda value: value.replace(b"o", b"\\u006f"),
)


def mutate(value: bytes, max_size: int, seed: int) -> bytes:
    """Mostly what libFuzzer does; at times put the whole into an envelope, take it out of gzip, or spell it otherwise."""
    chance = random.Random(seed)
    if chance.random() < 0.15:
        wrapped = chance.choice(_WRAPS)(value)
        if len(wrapped) <= max_size:
            return wrapped
    if value.startswith(b"\x1f\x8b"):
        try:
            inner = gzip.decompress(value)
        except (OSError, EOFError, zlib.error):
            inner = b""
        if inner and len(inner) < max_size:
            return gzip.compress(atheris.Mutate(inner, max_size // 2), mtime=0)[:max_size]
    mutated: bytes = atheris.Mutate(value, max_size)
    return mutated


if __name__ == "__main__":
    atheris.Setup(sys.argv, check, custom_mutator=mutate)
    atheris.Fuzz()
