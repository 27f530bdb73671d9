#!/usr/bin/env python3
"""Starts zscgan_tf.commands.distill from a copy of the project; see --help."""

import pathlib
import sys

# In place of bin/, whose programs would hide packages of the same names.
sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from zscgan_tf.commands.distill import run  # noqa: E402

if __name__ == '__main__':
    sys.exit(run())
