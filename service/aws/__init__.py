"""CloudWatch Logs, KMS and STS over aiobotocore's models: one service per Region, credentials per account, one table of errors."""
