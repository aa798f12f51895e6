"""Annotations: queries with their moments, rows as data sets have them, and the gaps between."""
