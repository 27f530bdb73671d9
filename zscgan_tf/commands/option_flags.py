"""Flags that are made from options: each field of an `Options` class is one."""

import dataclasses

from absl import flags

from zscgan_tf.errors import UserError
from zscgan_tf.options import Options, flag_of, preset_words

FLAGS = flags.FLAGS
_DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_boolean,
    list[int]: flags.DEFINE_list,
}


def define(options_class: type[Options]) -> None:
    """Defines the flag of each option; not passed it is None, and the preset's value counts."""
    for field in dataclasses.fields(options_class):
        if flag_of(field) in FLAGS:  # another class has the option too, as --activation_bits
            continue
        small, paper = (preset_words(field, preset) for preset in ('small', 'paper'))
        default = f'Default: {small}.' if small == paper else f'Small: {small}. Paper: {paper}.'
        text = f'{field.metadata["help"]} {default}'
        if field.metadata['kind'].choices:
            flags.DEFINE_enum(flag_of(field), None, field.metadata['kind'].choices, text)
        else:
            _DEFINE[field.type](flag_of(field), None, text)


def passed(options_class: type[Options]) -> dict[str, object]:
    """The options whose flags were passed, by the fields' names."""
    values = {}
    for field in dataclasses.fields(options_class):
        value = getattr(FLAGS, flag_of(field))
        if value is not None:
            is_list = field.type == list[int]
            values[field.name] = parse_numbers(flag_of(field)) if is_list else value
    return values


def passed_flags(options_class: type[Options]) -> list[str]:
    """The names of the flags of these options that were passed."""
    return [
        flag_of(field)
        for field in dataclasses.fields(options_class)
        if getattr(FLAGS, flag_of(field)) is not None
    ]


def parse_numbers(name: str, kind: type = int) -> list:
    """The numbers of a flag that is a list.

    Raises:
        UserError: it holds something else.
    """
    try:
        return [kind(text) for text in getattr(FLAGS, name)]
    except ValueError as error:
        raise UserError(
            f'--{name}={",".join(getattr(FLAGS, name))}: not numbers: pass numbers, separated by '
            f'commas.'
        ) from error
