"""The embedded default: a local Kafka and a local AWS, for the demo and the tests. The service itself never imports it."""
