"""Flags that are made from options: each field of an `Options` class is one."""

import dataclasses

from absl import flags

from zscgan_tf.errors import UserError
from zscgan_tf.options import Options, flag_of

FLAGS = flags.FLAGS
_DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_boolean,
    list[int]: flags.DEFINE_list,
}


# Of each flag that was defined here: the option that it is, and the class that declares it.
_OPTIONS = {}


def define(options_class: type[Options]) -> None:
    """Defines the flag of each option; not passed it is None, and the preset's value counts."""
    for field in dataclasses.fields(options_class):
        name = flag_of(field)
        if name in FLAGS:  # another class has the option too, as --activation_bits
            continue
        text = field.metadata['help']
        if field.metadata['kind'].choices:
            flags.DEFINE_enum(name, None, field.metadata['kind'].choices, text)
        else:
            _DEFINE[field.type](name, None, text)
        owners = (c for c in reversed(options_class.__mro__) if dataclasses.is_dataclass(c))
        declares = (c for c in owners if field.name in c.__dataclass_fields__)
        _OPTIONS[name] = (field, next(declares))


def field_of(name: str) -> dataclasses.Field | None:
    """The field of the option whose flag has this name; None of other flags."""
    return _OPTIONS[name][0] if name in _OPTIONS else None


def owner(name: str) -> type[Options] | None:
    """The class that declares the option whose flag has this name; None of other flags."""
    return _OPTIONS[name][1] if name in _OPTIONS else None


def passed(options_class: type[Options]) -> dict[str, object]:
    """The options whose flags were passed, by the fields' names."""
    values = {field.name: _value(field) for field in dataclasses.fields(options_class)}
    return {name: value for name, value in values.items() if value is not None}


def passed_flags(options_class: type[Options]) -> list[str]:
    """The names of the flags of these options that were passed."""
    return [
        flag_of(field)
        for field in dataclasses.fields(options_class)
        if getattr(FLAGS, flag_of(field)) is not None
    ]


def all_passed() -> list[tuple[dataclasses.Field, object]]:
    """The options of any class whose flags were passed, as fields, and their values."""
    values = [(field, _value(field)) for field, _ in _OPTIONS.values()]
    return [(field, value) for field, value in values if value is not None]


def _value(field):
    """What the flag of an option was given, a list as numbers; None where it was not passed."""
    value = getattr(FLAGS, flag_of(field))
    is_list = value is not None and field.type == list[int]
    return parse_numbers(flag_of(field)) if is_list else value


def parse_numbers(name: str, kind: type = int) -> list:
    """The numbers of a flag that is a list.

    Raises:
        UserError: it holds something else.
    """
    try:
        return [kind(text) for text in getattr(FLAGS, name)]
    except ValueError as error:
        numbers = 'whole numbers' if kind is int else 'numbers'
        raise UserError(
            f'--{name}={",".join(getattr(FLAGS, name))}: not {numbers}: pass {numbers}, separated '
            f'by commas.'
        ) from error
