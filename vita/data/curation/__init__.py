"""From documents to a corpus: features of a page, filters, deduplication, splits and the report."""
