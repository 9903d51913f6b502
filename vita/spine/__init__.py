"""Infrastructure independent of language models: settings, artifacts, ledger, plans, events, errors."""
