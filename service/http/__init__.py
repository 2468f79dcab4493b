"""The HTTP server: probes, metrics, and the API of requests, events, sweeps, lanes, status and pause. It drives the core."""
