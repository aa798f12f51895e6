"""Text of others in messages and pages: short, on one line, without control characters."""

import re

QUOTED = 80  # characters of a query that a message tells
# Control characters of ASCII and Latin-1, line and paragraph separators, and those that turn the direction of text.
CONTROLS = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]")


def escaped(text: str, keep: str = "") -> str:
    """`text` with its control characters as escapes, `\\x1b`, but for those in `keep`."""
    return CONTROLS.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)


def shortened(text: str, width: int = QUOTED) -> str:
    """`escaped`, in at most `width` characters and `...`."""
    return escaped(text[:width]) + ("..." if len(text) > width else "")


def quoted(text: str, width: int = QUOTED) -> str:
    """`'a red circle moves'`, for messages."""
    return f"'{shortened(text, width)}'"
