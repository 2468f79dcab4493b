"""The rules of Logwarden, pure: identities, events, tenancy, outcomes, offsets and lanes. No I/O, no clock, no vendor."""
