"""The log of requests, alerts, feedback and simulated users of a running service."""
