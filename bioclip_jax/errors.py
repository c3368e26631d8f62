"""Errors that a user can mend. The command line prints their one line and exits with their code."""


class UserError(Exception):
    """Something failed that the message explains: which argument or file, the value it had, what to do. Exit code 1."""

    exit_code = 1
    details: tuple[str, ...] = ()
    """Further lines, shown below the message, such as what a folder should hold and what it holds."""


class UsageError(UserError):
    """The command was asked for something it cannot do: a flag, a name or a path that is wrong. Exit code 2."""

    exit_code = 2
