"""Tests mirror the package; each builds what it needs in sight."""
