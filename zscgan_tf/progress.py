"""Progress of long work: a bar on a terminal; elsewhere a line of the log a minute.

Usage: with Progress('evaluating', 1000, 'images') as progress: progress.update(10)
"""

import logging
import os
import sys
import time
import types
from typing import IO, Self

import tqdm

logger = logging.getLogger(__name__)

# Without a terminal: when the first line comes, and how often the others. Short work says nothing.
FIRST_SECONDS = 10
SECONDS = 60
# Room for losses: a bar as long as the line would leave none.
_WITH_NOTE = (
    '{desc}: {percentage:3.0f}%|{bar:8}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]'
)


class Progress:
    """Tells how far some work is; a context manager.

    Args:
        description: what is done.
        total: how much there is to do, or None where that is not known.
        unit: what is counted, in the plural.
        done: how much was done before.
        file: where it is told; None for stderr, and for the log of this package.
        is_long: whether the last line comes in any case, not only after others. The caller then
            says what is left: the first step compiles, and tells nothing of others.
    """

    def __init__(
        self,
        description: str,
        total: int | None,
        unit: str,
        *,
        done: int = 0,
        file: IO[str] | None = None,
        is_long: bool = False,
    ) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._first = self._done = done
        self._file = file
        self._is_long = self._tells = is_long
        self._note = ''
        self._started = time.monotonic()
        self._next = self._started + FIRST_SECONDS
        stream = sys.stderr if file is None else file
        self._bar = None
        if has_width(stream):
            self._bar = tqdm.tqdm(
                total=total,
                initial=done,
                desc=description,
                unit=f' {unit}',
                file=file,
                dynamic_ncols=True,
                bar_format=_WITH_NOTE if is_long else None,
            )

    def update(self, count: int, note: str = '', left: float | None = None) -> None:
        """Tells that some more is done.

        Args:
            count: how much.
            note: what else is known, such as losses.
            left: seconds of work that are left; None: as the work went so far (of long work:
                not known).
        """
        self._done += count
        self._note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if now < self._next or self._done == self._total:
            return
        self._next = now + SECONDS
        self._tells = True
        knows = self._total is not None and self._done > self._first
        if left is None and knows and not self._is_long:
            rest = (self._total - self._done) / (self._done - self._first)
            left = (now - self._started) * rest
        of = '' if self._total is None else f' of {self._total:,}'
        time_left = None if left is None else f'about {duration(left)} left'
        self._log(f'{self._done:,}{of} {self._unit}', note, time_left)

    def tell(self, line: str) -> None:
        """Logs a line, above the bar where there is one."""
        with tqdm.tqdm.external_write_mode(file=sys.stderr):
            logger.info('%s', line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._tells and self._done > self._first:
            seconds = time.monotonic() - self._started
            new = self._done - self._first
            self._log(f'{new:,} {self._unit} in {duration(seconds)}', self._note)

    def _log(self, *parts):
        line = f'{self._description}: {", ".join(filter(None, parts))}'
        if self._file is None:
            logger.info('%s', line)
        elif logger.isEnabledFor(logging.INFO):  # stderr, and with it the log, is hidden
            print(line, file=self._file, flush=True)


def has_width(stream: IO[str]) -> bool:
    """Whether a stream is a terminal that a bar fits on: some consoles say that they have no width.

    Args:
        stream: such as stderr.
    """
    if not stream.isatty():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, AttributeError, ValueError):  # no descriptor: it says that it is a terminal
        return True


def duration(seconds: float) -> str:
    """A number of seconds for people: '1.6 hours'."""
    if seconds < 90:
        return f'{seconds:.0f} seconds'
    if seconds < 5400:
        return f'{seconds / 60:.0f} minutes'
    hours = seconds / 3600
    return f'{hours:.1f} hours' if hours < 48 else f'{hours / 24:.1f} days'
