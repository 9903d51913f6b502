"""Reports: figures, pages and charts."""
