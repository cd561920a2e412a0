"""Defines the exceptions for mistakes of the user."""


class UserError(Exception):
    """A mistake of the user, with a one-line message that has the key or file, its value, the limit and the fix.

    Commands print the message without a traceback and exit with code 1. Any other exception is a bug, whose traceback
    commands write to a file.
    """


class BusyError(UserError):
    """Another process holds the requested file or folder; a sweep does not count this as a failure of the run."""


class NotFiniteLossError(UserError):
    """A loss or gradient in training is NaN or infinite; a sweep counts such a run as exploded."""
