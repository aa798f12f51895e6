"""Packing: a video and sentences as the arrays of fixed shapes that the search program takes."""
