"""`UserError`, the one exception that stands for a user's mistake."""


class UserError(Exception):
    """Something that the user can mend: a wrong file, flag, image or workdir.

    The message is one line that says what is wrong with which file or flag and what to do.
    Programs print it without a traceback and end with exit status 1.
    """


class UnsupportedError(UserError):
    """A model that one way of quantizing cannot take, where another may.

    Attributes:
        reason: what stands in the way, as a part of a sentence.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f'{reason}: {advice}')
        self.reason = reason
