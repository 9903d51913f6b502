"""The service: replicas that answer, the gateway before them, and who keeps both alive."""
