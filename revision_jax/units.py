"""Units of memory."""

GIB = 2**30  # bytes
MIB = 2**20
