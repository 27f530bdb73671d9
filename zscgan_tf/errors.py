"""`UserError`, the one exception that stands for a user's mistake, and its kinds."""


class UserError(Exception):
    """Something that the user can mend: a wrong file, flag, image or workdir.

    The message is one line that says what is wrong with which file or flag and what to do.
    Programs print it without a traceback and end with exit status 1.
    """


def first_line(error: Exception) -> str:
    """The first line of another library's message, without its full stop, for messages of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200].rstrip('.') if lines else type(error).__name__


class UnsupportedError(UserError):
    """A model that one way of quantizing cannot take, where another may.

    Attributes:
        reason: what stands in the way, as a part of a sentence.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f'{reason}: {advice}')
        self.reason = reason
