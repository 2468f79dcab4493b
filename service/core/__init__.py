"""What Logwarden does, over the ports: no vendor, and nothing of Kafka, AWS or HTTP. Whoever looks for a behaviour finds it here."""
