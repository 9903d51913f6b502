"""The HTTP service: replicas that run the model, the gateway in front of them, and their supervision."""
