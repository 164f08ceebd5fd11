"""The two exceptions that are fastrnn's own; everything else is Python's."""


class CheckpointError(ValueError):
    """A file's content is broken, hostile or not understood; the message names the file and the reason."""


class BackendError(RuntimeError):
    """A backend cannot run here; the message says why and what to install."""
