"""Kafka's hash of keys, against aiokafka's."""

from aiokafka import partitioner
from hypothesis import given
from hypothesis import strategies as st

from service.stream.murmur2 import murmur2


@given(st.binary(max_size=100))
def test_every_key_has_the_hash_that_it_has_in_aiokafka(key: bytes):
    assert murmur2(key) == partitioner.murmur2(key)
