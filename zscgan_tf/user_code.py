"""Functions of the user's own, named package.module:function: they run only where allowed."""

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator

from zscgan_tf.errors import UserError


def is_function_name(text: str) -> bool:
    """Whether a text has the form package.module:function."""
    return bool(re.fullmatch(r'[A-Za-z_][\w.]*:[A-Za-z_]\w*', text))


@contextlib.contextmanager
def one_line_errors(what: str) -> Iterator[None]:
    """Turns whatever the user's code raises, an exit too, into a `UserError` of one line.

    Args:
        what: begins the message; `UserError` of the code passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'{what} failed ({type(error).__name__}: {reason}).') from error


def import_function(name: str, allow_code: bool) -> Callable:
    """The function `package.module:function`; the current folder is looked into too.

    Args:
        name: of this form.
        allow_code: whether the user allows Python code to run.

    Raises:
        UserError: code is not allowed, or there is no such function.
    """
    if not allow_code:
        raise UserError(f'{name} is Python code; pass --allow_code if you trust it.')
    module_name, function_name = name.split(':')
    if '' not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with one_line_errors(f'{name}: the import of {module_name}'):
        module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f'{name}: {module_name} has no function {function_name}.')
    return function
