"""One replica: a model behind an HTTP API."""
