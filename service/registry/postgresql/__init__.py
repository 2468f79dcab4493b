"""Tenants in PostgreSQL: the source, and the schema as numbered SQL files, applied by `logwarden registry migrate`."""
