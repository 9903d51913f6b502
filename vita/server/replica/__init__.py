"""The replica: one process that serves one model over HTTP."""
