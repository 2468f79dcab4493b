"""A local AWS, in a process of its own: CloudWatch Logs, KMS, STS, IAM and DynamoDB on moto, with what Logwarden meets at AWS."""
