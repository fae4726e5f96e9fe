"""What stops a release."""


class ReleaseError(Exception):
    """The release cannot be made as things are. The caller's to mend: the message names what was found, and what to do."""
