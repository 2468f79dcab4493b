"""What every part of the sandbox raises when it cannot do its work."""


class SandboxError(RuntimeError):
    """Something of the sandbox did not start, has ended, or refused a command. The text says what, with the end of its log."""
