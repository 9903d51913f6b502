"""The record of a life for people and other programs: model card, life page, exports and archive."""

from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"
"""The templates of the life page and the model card."""
