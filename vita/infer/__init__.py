"""From weights to answers: cache, sampling, engine."""
