"""CloudWatch Logs over aiobotocore: one client per Region, credentials per account, one table of errors."""
