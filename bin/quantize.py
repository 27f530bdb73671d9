#!/usr/bin/env python3
"""Starts the program that this file, or the link to it, is named after; see --help."""

import importlib
import pathlib
import sys

# In place of bin/, whose programs would hide packages of the same names.
sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

NAME = pathlib.Path(__file__).stem
PROGRAM = 'benchmarks.program' if NAME == 'benchmark' else f'zscgan_tf.commands.{NAME}'

if __name__ == '__main__':
    sys.exit(importlib.import_module(PROGRAM).run())
