"""What `--help`, docs/flags.md and messages say of a flag: its form, its legal values, its help."""

from absl import flags

from zscgan_tf.commands import groups, option_flags
from zscgan_tf.options import SWITCH, preset_words

FLAGS = flags.FLAGS
_VALUES = {'int': 'N', 'float': 'X', 'comma separated list of strings': 'A,...'}
# What is legal where a flag's value is called so.
_KINDS = {
    'FILE': 'a file',
    'FOLDER': 'a folder',
    'PATH': 'a file or folder',
    'NAME': 'a name',
    'X,...': 'numbers, separated by commas',
    'H,W': 'one or two whole numbers, separated by a comma',
}
# What `form` may take for the names of all legal values.
LONGEST_CHOICES = 34


def form(flag: flags.Flag) -> str:
    """How a flag is passed, as `--weight_bits=N` or `--[no]mix`."""
    if flag.name == 'teacher':
        return 'MODEL or --teacher=FILE'
    if flag.name == 'help':
        return '--help, -h'
    if flag.boolean:
        field = option_flags.field_of(flag.name)
        both = flag.default or (field and field.metadata['kind'] is SWITCH)
        return f'--[no]{flag.name}' if both else f'--{flag.name}'
    if choices := _choices(flag):
        names = '|'.join(choices)
        return f'--{flag.name}={names if len(names) <= LONGEST_CHOICES else "NAME"}'
    value = groups.place(flag.name).value or _VALUES.get(flag.flag_type(), 'TEXT')
    return f'--{flag.name}={value}'


def text(flag: flags.Flag) -> str:
    """A flag's help in `--help`: with its legal names and its default where it has such."""
    words = meaning(flag)
    choices = _choices(flag)
    if not all(choice in form(flag) for choice in choices):
        words += f' One of {", ".join(choices)}.'
    if field := option_flags.field_of(flag.name):
        small, paper = (preset_words(field, preset) for preset in ('small', 'paper'))
        same = f'Default: {small}.'
        return f'{words} {same if small == paper else f"Small: {small}. Paper: {paper}."}'
    return f'{words} Default: {default(flag)}.' if default(flag) else words


def meaning(flag: flags.Flag) -> str:
    """What a flag is."""
    if field := option_flags.field_of(flag.name):
        return field.metadata['help']
    # absl has put the legal names before it.
    return ' '.join(flag.help.split()).removeprefix(f'<{"|".join(_choices(flag))}>: ')


def default(flag: flags.Flag) -> str:
    """The default of a flag that is no option; '' where there is none, or a switch is off."""
    if flag.default is None or flag.default is False:
        return ''
    if flag.default is True:
        return 'on'
    return f'{flag.default:,}' if isinstance(flag.default, int) else str(flag.default)


def legal(flag: flags.Flag) -> str:
    """A flag's legal values in words, behind 'must be'."""
    field = option_flags.field_of(flag.name)
    if field and not flag.boolean:
        return field.metadata['kind'].legal
    if flag.boolean:
        return 'true or false'
    if choices := _choices(flag):
        return f'one of {", ".join(choices)}'
    if flag.name in ('teacher', 'source'):  # their values have several forms
        own = 'a file or folder' if flag.name == 'teacher' else 'a name'
        return f'{own}, or package.module:function'
    number = {'int': 'a whole number', 'float': 'a number'}.get(flag.flag_type())
    if number is None:
        return _KINDS.get(groups.place(flag.name).value, 'a text')
    low, high = flag.parser.lower_bound, flag.parser.upper_bound
    if low is not None and high is not None:
        return f'{number} from {low:,} to {high:,}'
    return f'{number}, at least {low:,}' if low is not None else number


def _choices(flag):
    return tuple(getattr(flag.parser, 'enum_values', ()))
