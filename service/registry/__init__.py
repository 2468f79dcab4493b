"""Where tenants and their keys come from."""
