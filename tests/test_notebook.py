"""docs/example.ipynb: what it stores, and that it runs."""

import os
import pathlib
import re

import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATH = ROOT / 'docs' / 'example.ipynb'


def printed(notebook):
    """All that the code cells print."""
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    assert all(output.output_type != 'error' for output in outputs)
    return ''.join(output.get('text', '') for output in outputs)


def results(notebook):
    """{(bits, images): (accuracy, agreement)}, and the float model's accuracy, as printed."""
    text = printed(notebook)
    rows = re.findall(r'(\d) bits, (\w+) \w+ +accuracy ([\d.]+) %.* ([\d.]+) %', text)
    found = {(int(bits), images): (float(a), float(b)) for bits, images, a, b in rows}
    assert len(found) == 4, text
    return float(re.search(r'float: accuracy ([\d.]+) %', text)[1]), found


def check(notebook):
    """What the text of the notebook says of its results."""
    accuracy, found = results(notebook)
    assert accuracy > 85
    assert found[8, 'generated'][0] > accuracy - 3 and found[8, 'generated'][1] > 96
    assert found[4, 'generated'][0] > found[4, 'uniform'][0]


def test_the_notebook_stores_what_it_shows():
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    assert PATH.stat().st_size < 500_000
    numbers = [cell.execution_count for cell in notebook.cells if cell.cell_type == 'code']
    assert numbers == list(range(1, len(numbers) + 1))  # run once, from the top to the bottom
    check(notebook)
    assert not re.search(r'/(tmp|home|root|work|Users)/', printed(notebook))
    links = re.findall(r'\]\(([^)#]+)\)', ''.join(cell.source for cell in notebook.cells))
    assert links and all((PATH.parent / link).exists() for link in links)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    from nbclient import NotebookClient

    notebook = nbformat.read(PATH, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == 'code':
            cell.outputs = []
    client = NotebookClient(notebook, timeout=1800, resources={'metadata': {'path': tmp_path}})
    # Its own temporary folder is made within this one; the package is that beside the tests.
    client.execute(env=os.environ | {'PYTHONPATH': str(ROOT), 'TMPDIR': str(tmp_path)})
    check(notebook)
