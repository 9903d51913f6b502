"""Deployment of a release: the files of a target, the deployment folder with its history, and rollback."""
