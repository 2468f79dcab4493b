"""What the command line asks of a running service: over its REST API, or straight over Kafka."""
