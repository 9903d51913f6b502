"""Extraction of plain text from web pages, PDF, EPUB and Word documents, in a process with limits."""
