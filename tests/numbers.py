"""Numbers that tests compare with: a softmax, and what a training logged."""

import json
import pathlib

import numpy as np


def softmax(x):
    """Over the last axis, in float64."""
    powers = np.exp(np.float64(x) - np.max(x, axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def read_metrics(workdir):
    """The lines of a workdir's metrics.jsonl."""
    text = (pathlib.Path(workdir) / 'metrics.jsonl').read_text()
    return [json.loads(line) for line in text.splitlines()]
