"""The side-port: probes, metrics and the manual trigger."""
