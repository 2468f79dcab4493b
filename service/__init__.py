"""Logwarden keeps every CloudWatch log group encrypted under its own tenant's KMS key."""
