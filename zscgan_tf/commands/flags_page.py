"""The page docs/flags.md: all flags of all programs, in the groups of `--help`.

python -m zscgan_tf.commands.flags_page            writes it
python -m zscgan_tf.commands.flags_page PROGRAM    prints a program's flags as JSON
"""

import ast
import importlib
import json
import pathlib
import subprocess
import sys

from zscgan_tf.commands import flag_words, help, option_flags, parsing
from zscgan_tf.options import preset_words

PAGE = pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'flags.md'
# The first is shown in full, of the others what the first does not have.
PROGRAMS = ('quantize', 'train_generator', 'distill', 'synthesize', 'evaluate', 'report')
HEADER = ['| flag | what it is | legal | `small` | `paper` |', '| --- | --- | --- | --- | --- |']


def page() -> str:
    """The page's text: a table for each group of flags of quantize, then those of others."""
    found = {program: _flags_in_a_process(program) for program in PROGRAMS}
    first, *others = PROGRAMS
    lines = [
        '# Flags',
        '',
        'This page is made from the code by `python -m zscgan_tf.commands.flags_page`. It shows '
        'every flag of `quantize` in the groups of `--helpfull`, with its value under either '
        '`--preset`, and then what other programs have beside these.',
        '',
        '- The reasons for `small` are in [choices.md](choices.md), those for `paper` in '
        '[paper.md](paper.md).',
        '- Numbers in brackets, as [14], are references that [paper.md](paper.md) explains.',
        '- An installed program is called `zscgan-quantize`, `zscgan-train-generator`, and so on.',
        '- In a clone, the programs are `bin/quantize.py`, `bin/train_generator.py`, and so on.',
        '- Pass the model as the first argument, or as `--teacher`. These flags are required too: '
        '`--output` of `quantize` and `synthesize`, `--workdir` of `train_generator`, `distill` '
        'and `synthesize`, `--model` of `report`.',
        '',
        '| program | what it does |',
        '| --- | --- |',
        *(f'| `{program}` | {_purpose(program)} |' for program in PROGRAMS),
    ]
    for group in dict.fromkeys(row['group'] for row in found[first]):
        rows = [row for row in found[first] if row['group'] == group]
        lines += ['', f'## {group}', '', *HEADER, *map(_row, rows)]
    for program in others:
        own = [row for row in found[program] if row not in found[first]]
        lines += ['', f'## Flags of {program}', '', _shared(found[program], found[first])]
        lines += ['', *HEADER, *map(_row, own)] if own else []
    return '\n'.join(lines) + '\n'


def _purpose(program):
    """The first sentence of a program's help."""
    source = (pathlib.Path(__file__).parent / f'{program}.py').read_text(encoding='utf-8')
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


def _shared(rows, others):
    """In words, which of the rows are among others: whole groups, and single flags."""
    shared = {}
    for row in others:
        if row['group'] != 'Help':
            shared.setdefault(row['group'], []).append(row if row in rows else None)
    whole = [f'"{group}"' for group, found in shared.items() if None not in found]
    parts = [row for group in shared.values() if None in group for row in group if row]
    words = f'all flags of {", ".join(whole)}'
    names = ', '.join(f'`--{row["name"]}`' for row in parts)
    return f'As in quantize: {words}{"; and " if parts else ""}{names}.'


def _flags_in_a_process(program):
    """The flags of a program: two programs' flags do not fit into one process."""
    command = [sys.executable, '-m', __spec__.name, program]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def _print_flags(program):
    from zscgan_tf.commands import app

    app.collect_flags(importlib.import_module(f'zscgan_tf.commands.{program}').__name__)
    shown = help.in_groups(parsing.shown_flags(), full=True)
    print(json.dumps([_described(group, flag) for group, flags in shown for flag in flags]))


def _described(group, flag):
    field = option_flags.field_of(flag.name)
    small, paper = (
        preset_words(field, preset) if field else flag_words.default(flag)
        for preset in ('small', 'paper')
    )
    row = {'name': flag.name, 'meaning': flag_words.meaning(flag), 'legal': flag_words.legal(flag)}
    return {'group': group, **row, 'small': small, 'paper': paper}


def _row(row):
    name, *cells = (row[key] for key in ('name', 'meaning', 'legal', 'small', 'paper'))
    return f'| `--{name}` | {" | ".join(cells)} |'


if __name__ == '__main__':
    if len(sys.argv) > 1:
        _print_flags(sys.argv[1])
    else:
        PAGE.write_text(page(), encoding='utf-8')
