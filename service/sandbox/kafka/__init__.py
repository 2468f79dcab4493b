"""Local Kafka brokers: the one that librdkafka carries, and Apache Kafka through Maven."""
