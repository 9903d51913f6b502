"""The gateway: authentication, admission, routing and the request log in front of the replicas."""
