"""Criteria for promotion, the evidence for them, signed approvals, and clearance to serve."""
