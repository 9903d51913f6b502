"""The service: processes of replicas, their supervision, and the administration interface."""
