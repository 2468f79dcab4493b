"""Kafka: poll, commit, rebalance, drain and publish. Everything that aiokafka needs to be told lives here."""
