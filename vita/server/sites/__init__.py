"""Several sites of one service: their names and regions, residency, idempotency records, certificates and tokens."""
