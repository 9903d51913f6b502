"""Reports: figures, pages and charts."""

REPORT_FILE = "report.json"
"""The file of a report; `vita.reporting.figures` alone writes and reads it."""
