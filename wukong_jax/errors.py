"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake of the user's that one line can name: the key or file, its value, the limit and the fix.

    Scripts print the message without a traceback and exit with 1; anything else that
    escapes is a defect of ours and keeps its traceback.
    """


class BusyError(UserError):
    """Another process holds what is asked for; a sweep must not take that for a failure of the run."""


class NotFiniteLossError(UserError):
    """Training met a loss or gradient that is NaN or infinite; a sweep counts such a run as exploded."""
