"""Says what a request asks for in words that hold no patient: what is no id of ours is not repeated in audit and logs."""

import re

VIEW_ID = re.compile(r"[A-Za-z0-9._-]{1,64}-[0-9a-f]{16}", re.ASCII)
"""Shape of a view's id. A name or a beginning is none, nor is a patient's id that was typed in its place."""
KEY_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)


def of_view(name: str) -> str:
    """A view, by its id if it is one."""
    return name if VIEW_ID.fullmatch(name) else "view"


def of_key(name: str) -> str:
    """A key, by its id if it is one."""
    return f"key {name}" if KEY_ID.fullmatch(name) else "key"
