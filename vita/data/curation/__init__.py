"""Curation of documents into a corpus: page features, filters, deduplication, splits and the report."""
