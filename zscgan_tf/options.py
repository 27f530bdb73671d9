"""The machinery of options: each is declared once, as a field of a frozen dataclass.

    @dataclasses.dataclass(frozen=True)
    class GeneratorOptions(Options):
        steps: int = option(COUNT, 'Training steps.', paper=200_000, small=1000)

A field says the option's value under the presets `paper` and `small`, its legal values and its
help. Flags, `--help`, validation, `config.json`, results and docs/flags.md derive from the fields.
"""

import collections.abc
import dataclasses
import numbers
import typing

from zscgan_tf.errors import UserError

PRESETS = ('small', 'paper')
# Pixels of the shorter side from which on presets have other defaults.
LARGE_SIDE = 96
# NumPy's global seed and the int32 of a batch's seed end soon above.
MAX_SEED = 2_000_000_000


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, at least 0, that TensorFlow can hold."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integer and 0 <= value < 2**31


def is_count(value: object) -> bool:
    """Whether a value is a whole number, at least 1."""
    return is_whole(value) and value >= 1


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What values an option may have.

    Attributes:
        is_legal: a function of the value.
        legal: the legal values in words, behind 'must be'.
        type: makes the value that is kept: a NumPy number does not fit into JSON.
        choices: the legal values of an option of names.
    """

    is_legal: collections.abc.Callable[[object], bool]
    legal: str
    type: collections.abc.Callable[[object], object]
    choices: tuple[str, ...] = ()


def choice(*values: str) -> Kind:
    """The kind of an option whose value is one of these names."""
    legal = f'one of {", ".join(values)}' if len(values) > 1 else values[0]
    return Kind(values.__contains__, legal, str, values)


COUNT = Kind(is_count, 'a whole number, at least 1 and below 2^31', int)
WHOLE = Kind(is_whole, 'a whole number, 0 or more and below 2^31', int)
POSITIVE = Kind(lambda v: _is_number(v) and 0 < v < float('inf'), 'positive', float)
WEIGHT = Kind(lambda v: _is_number(v) and 0 <= v < float('inf'), '0 (switched off) or more', float)
SHARE = Kind(lambda v: _is_number(v) and 0 <= v <= 1, 'between 0 and 1', float)
BITS = Kind(lambda v: is_whole(v) and 2 <= v <= 8, '2 to 8 bits', int)
SWITCH = Kind(lambda v: type(v).__name__ in ('bool', 'bool_'), 'True or False', bool)
SEED = Kind(lambda v: is_whole(v) and v <= MAX_SEED, f'0 to {MAX_SEED:,}', int)


def counts(legal: str) -> Kind:
    """The kind of an option that is one count, or several: a list."""

    def is_legal(value):
        return len(_as_list(value)) > 0 and all(map(is_count, _as_list(value)))

    return Kind(is_legal, legal, lambda value: [int(v) for v in _as_list(value)])


def _as_list(value):
    several = isinstance(value, (list, tuple)) or getattr(value, 'ndim', 0) == 1
    return list(value) if several else [value]


def is_large(teacher: object) -> bool:
    """Whether a teacher's images are large ones, for which presets have other defaults."""
    return min(teacher.input_spec.image_size) >= LARGE_SIDE


@dataclasses.dataclass(frozen=True)
class Derived:
    """A preset's value that depends on the teacher, or on other options.

    Attributes:
        words: the rule, for documents.
        of: a function of the `Teacher`; None where `Options._completed` knows the rule.
    """

    words: str
    of: collections.abc.Callable[[object], object] | None = None


_SAME = object()


def option(
    kind: Kind,
    help: str,
    *,
    paper: object,
    small: object = _SAME,
    flag: str | None = None,
    before: object = None,
) -> typing.Any:
    """The field of an option.

    Args:
        kind: which values are legal.
        help: what the option is, for `--help` and docs/flags.md.
        paper: its value under the preset `paper`: a value or a `Derived`.
        small: its value under `small`; that of `paper` where nothing is said.
        flag: the flag's name where it is not the field's.
        before: a value that records leave out, so that older workdirs and results still match: the
            one that was in force before the option existed, or that changes no answer.
    """
    presets = {'paper': paper, 'small': paper if small is _SAME else small}
    return dataclasses.field(
        metadata={'kind': kind, 'help': help, 'flag': flag, 'before': before, **presets}
    )


def flag_of(field: dataclasses.Field) -> str:
    """The name of the flag of an option, which `config.json` uses too."""
    return field.metadata['flag'] or field.name


def check(kind: Kind, flag: str, value: object) -> typing.Any:
    """The value of an option or argument, in its type.

    Args:
        kind: which values are legal.
        flag: its name, as the programs call it.
        value: what was passed.

    Raises:
        UserError: another type, or out of range.
    """
    try:
        if kind.is_legal(value):
            return kind.type(value)
    except (TypeError, ValueError, OverflowError):  # such as an array, where a value is compared
        pass
    raise UserError(f'--{flag}={_shown(value, bool(kind.choices))} must be {kind.legal}.')


def _shown(value, is_name):
    """A value in a message: texts where numbers belong are quoted, arrays are cut."""
    text = ' '.join((str if is_name else repr)(value).split())
    return text if len(text) <= 60 else text[:57] + '...'


def preset_words(field: dataclasses.Field, preset: str) -> str:
    """An option's value under a preset, as documents say it."""
    value = field.metadata[preset]
    if isinstance(value, Derived):
        return value.words
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, list):
        return ', '.join(map(str, value))
    return f'{value:,}' if isinstance(value, int) else str(value)


@dataclasses.dataclass(frozen=True)
class Options:
    """The base of all options: subclasses add fields, made by `option`, and rules."""

    @classmethod
    def resolve(
        cls, preset: str, overrides: dict[str, object], teacher: object = None
    ) -> typing.Self:
        """All options: the preset's values, with the overrides that are not None.

        Args:
            preset: 'small' or 'paper'.
            overrides: dict of some fields' names -> value.
            teacher: the `Teacher`, where values depend on it.

        Raises:
            UserError: unknown names, values out of range, or values that contradict each other.
        """
        if preset not in PRESETS:
            raise UserError(f'--preset={preset} is unknown: pass one of {", ".join(PRESETS)}.')
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(overrides) - set(fields))
        if unknown:
            raise UserError(f'unknown option {unknown[0]}: the options are {", ".join(fields)}.')
        given = {
            name: check(fields[name].metadata['kind'], flag_of(fields[name]), value)
            for name, value in overrides.items()
            if value is not None
        }
        values = {}
        for name, field in fields.items():
            value = field.metadata[preset]
            if isinstance(value, Derived):
                value = None if value.of is None or name in given else value.of(teacher)
            values[name] = value
        return cls(**cls._completed({**values, **given}, given, preset, teacher))

    @classmethod
    def _completed(cls, values, given, preset, teacher) -> dict:
        """The rules between options: refuses contradictions and fills in what others decide.

        Args:
            values: all options; None where the preset leaves a value to this function.
            given: those that were passed.
            preset, teacher: see `resolve`.

        Returns:
            All options, complete.
        """
        return values

    @classmethod
    def from_record(cls, record: dict[str, object]) -> typing.Self:
        """The options in what `record` returned, or in a `config.json` that holds it.

        Raises:
            KeyError: an option is missing.
            UserError: a value is not legal.
        """
        values = {
            flag_of(field): field.metadata['before']
            for field in dataclasses.fields(cls)
            if field.metadata['before'] is not None
        } | record
        found = {field: values[flag_of(field)] for field in dataclasses.fields(cls)}
        return cls(
            **{
                field.name: value
                if value is None
                else check(field.metadata['kind'], flag_of(field), value)
                for field, value in found.items()
            }
        )

    @classmethod
    def names(cls) -> set[str]:
        """The names of the fields."""
        return {field.name for field in dataclasses.fields(cls)}

    @classmethod
    def among(cls, options: dict[str, object]) -> dict[str, object]:
        """Those of these options that were passed and are fields of this class."""
        names = cls.names()
        return {k: v for k, v in options.items() if k in names and v is not None}

    def values(self) -> dict[str, object]:
        """All options by the names of their fields."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def record(self) -> dict[str, object]:
        """All options by the names of their flags, as `config.json` holds them."""
        return {flag_of(field): value for field, value in self.recorded()}

    def recorded(self) -> collections.abc.Iterator[tuple[dataclasses.Field, object]]:
        """The options that records hold: those whose value is not `before`."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.metadata['before']:
                yield field, value
