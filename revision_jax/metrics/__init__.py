"""Metrics: numbers in, numbers out; no files, no models."""
