"""Caller: whoever a call is from."""

import base64
import hashlib
from dataclasses import dataclass, field

MARK = "~"
"""Begins the owner's tag at the end of a session's id; no id that is issued has it elsewhere."""


@dataclass(frozen=True, slots=True)
class Caller:
    """`name`: of the token. A session's id ends with its owner's tag: whose it is need not be looked up anywhere, and whoever
    puts another tag behind an id names another session, which is not there."""

    name: str
    admin: bool = False
    tag: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(f"statecell caller\n{self.name}".encode()).digest()
        object.__setattr__(self, "tag", f"{MARK}{base64.urlsafe_b64encode(digest[:12]).decode()}" if self.name else "")

    def owns(self, session_id: str) -> bool:
        """Whether the session, if it is there, was made by this caller. Anybody, where nobody has a name, owns all."""
        return session_id.endswith(self.tag)


ANYBODY = Caller("", admin=True)
"""All callers of a server that asks nobody who they are."""


def owner_tag(session_id: str) -> str:
    """The tag of the session's owner; "" of one that was made where nobody had a name."""
    _, mark, tag = session_id.rpartition(MARK)
    return mark + tag if mark else ""
