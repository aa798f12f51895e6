"""Compiling ahead: the programs of a config for devices that are described, not there."""
