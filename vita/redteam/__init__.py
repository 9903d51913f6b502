"""Attacks on a model: probes, detectors, taxonomy, datasets and findings."""
