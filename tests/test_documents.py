"""The documents say what the code does: their names, calls, messages and lengths are looked up."""

import ast
import inspect
import pathlib
import re

import pytest

import zscgan_tf

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'


def text_of(name):
    return (ROOT / name).read_text(encoding='utf-8')


def test_the_readme_fits_a_few_screens():
    assert len(text_of('README.md').splitlines()) <= 200


def test_every_public_name_has_a_section_with_an_example():
    sections = re.findall(r'^### `(\w+)`\n(.*?)(?=^##|\Z)', text_of('docs/api.md'), re.M | re.S)
    assert sorted(name for name, _ in sections) == zscgan_tf.__all__
    for name, section in sections:
        example = ''.join(python_blocks(section))
        assert name in example or name == 'Teacher', name


def python_blocks(text):
    return re.findall(r'^```python\n(.*?)^```', text, re.M | re.S)


@pytest.mark.parametrize('name', ['README.md', 'docs/api.md'])
def test_examples_call_the_functions_as_they_are(name):
    calls = [
        node
        for block in python_blocks(text_of(name))
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and getattr(node.func.value, 'id', None) == 'zscgan_tf'
    ]
    assert calls
    for call in calls:
        function = getattr(zscgan_tf, call.func.attr)
        keywords = {keyword.arg: None for keyword in call.keywords}
        inspect.signature(function).bind(*call.args, **keywords)


def templates():
    """All texts in the package, with `…` for what is put in."""
    for path in (ROOT / 'zscgan_tf').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.JoinedStr):
                parts = (getattr(part, 'value', '…') for part in node.values)
                yield ' '.join(''.join(p if isinstance(p, str) else '…' for p in parts).split())
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield ' '.join(node.value.replace('%s', '…').split())


def test_messages_are_those_of_the_code():
    messages = re.findall(r'^> (.+)$', text_of('docs/troubleshooting.md'), re.M)
    texts = list(templates())
    for message in messages:
        parts = [part.strip() for part in message.removeprefix('WARNING').split('…')]
        pattern = '.*'.join(re.escape(part) for part in parts if part)
        assert any(re.search(pattern, text) for text in texts), message
    assert len(messages) > 20


DOCUMENTS = ['README.md', 'CONTRIBUTING.md', *(f'docs/{path.name}' for path in DOCS.glob('*.md'))]


@pytest.mark.parametrize('name', DOCUMENTS)
def test_links_within_documents_name_headings(name):
    text = text_of(name)
    for target, anchor in re.findall(r'\]\(([\w./-]*)#([\w-]+)\)', text):
        path = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        headings = re.findall(r'^#+ (.+)$', path.read_text(encoding='utf-8'), re.M)
        anchors = {re.sub(r'[^\w -]', '', h.lower()).replace(' ', '-') for h in headings}
        assert anchor in anchors, (target, anchor)


# Pages that are made from the code say what the fields' help says.
@pytest.mark.parametrize('name', [name for name in DOCUMENTS if name != 'docs/flags.md'])
def test_sentences_in_tables_are_short(name):
    """At most twelve words: what takes more stands beside the table."""
    for line in text_of(name).splitlines():
        if line.startswith('|'):
            plain = re.sub(r'`[^`]*`|\[[^\]]*\]\([^)]*\)', 'x', line)
            for sentence in re.split(r'\||[.:] ', plain):
                assert len(re.findall(r'\w\S*', sentence)) <= 12, sentence
