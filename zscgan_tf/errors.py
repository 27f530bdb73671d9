"""`UserError`, the one exception that stands for a user's mistake."""


class UserError(Exception):
    """Something that the user can mend: a wrong file, flag, image or workdir.

    The message is one line that says what is wrong with which file or flag and what to do.
    Programs print it without a traceback and end with exit status 1.
    """
