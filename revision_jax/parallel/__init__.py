"""Devices: the mesh, and the one table that lays parameters over it."""
