"""What can go wrong in an export. Every message names the part, what it does, and what to change."""


class ExportError(Exception):
    """Base of all that this package raises by intent. No file was left behind."""


class ModuleRefusedError(ExportError):
    """The module cannot be exported so that it is right at every seq_len and batch. The message says what to change in it."""


class ExampleError(ExportError):
    """The example does not fit the module. The caller's fault: give inputs that its forward takes, or name their axes."""


class CheckpointError(ExportError):
    """The checkpoint does not fit the module, or is not a plain one. The caller's fault: the message lists the keys."""


class GraphRefusedError(ExportError):
    """The ONNX file cannot be served statefully. The message names the node or tensor and what to do."""


class VerificationError(ExportError):
    """An artifact disagrees with the module. The artifact was thrown away; please report the module that did it."""
