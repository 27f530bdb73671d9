"""What is told of long work on terminals, on terminals without a width, in pipes and in files."""

import fcntl
import io
import logging
import os
import struct
import termios

import pytest

from zscgan_tf import progress
from zscgan_tf.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves: `clock.now`."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, 'time', clock)
    return clock


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_line_a_minute_with_what_is_left(clock, caplog):
    with caplog.at_level(logging.INFO, 'zscgan_tf'), Progress('fitting', 1200, 'steps') as shown:
        for second in range(2, 241, 2):
            clock.now = second
            shown.update(10, f'loss {second}', left=2.5 * 3600 if second == 10 else None)
    assert lines(caplog) == [
        'fitting: 50 of 1,200 steps, loss 10, about 2.5 hours left',
        'fitting: 350 of 1,200 steps, loss 70, about 3 minutes left',
        'fitting: 650 of 1,200 steps, loss 130, about 2 minutes left',
        'fitting: 950 of 1,200 steps, loss 190, about 50 seconds left',
        'fitting: 1,200 steps in 4 minutes, loss 240',
    ]


def test_short_work_says_nothing(clock, caplog):
    with caplog.at_level(logging.INFO, 'zscgan_tf'):
        for is_long in (False, True):
            with Progress('looking', 9, 'images', is_long=is_long) as shown:
                clock.now += 4
                shown.update(9)
    assert lines(caplog) == ['looking: 9 images in 4 seconds']  # where it is asked for


def test_long_work_leaves_the_estimate_to_its_caller(clock, caplog):
    with caplog.at_level(logging.INFO, 'zscgan_tf'):
        with Progress('fitting', 9, 'steps', is_long=True) as shown:
            clock.now += 20
            shown.update(1, 'compiled')
            shown.tell('fitting: a line of its own')
    assert lines(caplog)[:2] == ['fitting: 1 of 9 steps, compiled', 'fitting: a line of its own']


def test_an_open_end_and_a_resumed_start(clock, caplog):
    with caplog.at_level(logging.INFO, 'zscgan_tf'):
        with Progress('reading', None, 'images') as shown:
            clock.now += 10
            shown.update(7)
        with Progress('fitting', 100, 'steps', done=80) as shown:
            clock.now += 10
            shown.update(10)
    assert lines(caplog) == [
        'reading: 7 images',
        'reading: 7 images in 10 seconds',
        'fitting: 90 of 100 steps, about 10 seconds left',
        'fitting: 10 steps in 10 seconds',
    ]


def test_work_that_fails_has_no_last_line(clock, caplog):
    with caplog.at_level(logging.INFO, 'zscgan_tf'), pytest.raises(ValueError):
        with Progress('fitting', 9, 'steps', is_long=True) as shown:
            shown.update(1)
            raise ValueError
    assert lines(caplog) == []


def test_a_stream_of_its_own_where_stderr_is_hidden(clock, caplog):
    """The lines go there, if the log would show them; never to both."""
    for level, told in ((logging.INFO, 2), (logging.WARNING, 0)):
        file = io.StringIO()
        with caplog.at_level(level, 'zscgan_tf'), Progress('fitting', 9, 'steps', file=file) as p:
            clock.now += 20
            p.update(3)
        assert len(file.getvalue().splitlines()) == told and lines(caplog) == []


@pytest.mark.parametrize('columns, is_bar', [(80, True), (0, False)])
@pytest.mark.parametrize('variable', ['0', None])
def test_a_terminal_without_a_width_has_lines(monkeypatch, clock, columns, is_bar, variable):
    if variable is not None:
        monkeypatch.setenv('COLUMNS', variable)
    monkeypatch.setattr(progress.logger, 'isEnabledFor', lambda level: True)
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
    with os.fdopen(slave, 'w') as terminal:
        with Progress('fitting', 9, 'steps', file=terminal) as shown:
            clock.now += 20
            shown.update(3)
        print('end', file=terminal, flush=True)
        text = ''
        while 'end' not in text:
            text += os.read(master, 10_000).decode()
    os.close(master)
    if is_bar:
        assert '3/9' in text and '|' in text and max(map(len, text.split('\r'))) <= 80
    else:
        assert text.splitlines()[0] == 'fitting: 3 of 9 steps, about 40 seconds left'


@pytest.mark.parametrize(
    'seconds, text',
    [(12, '12 seconds'), (600, '10 minutes'), (9000, '2.5 hours'), (1e6, '11.6 days')],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
