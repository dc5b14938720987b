"""How a command line becomes arguments: parsers whose help comes from docstrings, and messages of one line."""

import re
from typing import Any, get_args

from stochseg.errors import InputError


def new_parser(prog: str, text: str) -> Any:
    from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

    class PlainTypes(DefaultHelpFormatter):
        def _get_type_str(self, action: Any) -> str | None:
            return plain_type(super()._get_type_str(action))

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(
        prog=prog, description=text, exit_on_error=False, allow_abbrev=False, formatter_class=PlainTypes
    )


def plain_type(text: str | None) -> str | None:
    """What help says of a type: no names of Python's, and nothing where choices or words say it.

    >>> [plain_type(t) for t in ("int | null", "Union[str, Path, null]", "Literal['a', 'b']", "float")]
    ['int', 'path', None, 'float']
    """
    if text is None or "Path" in text:
        return text and "path"
    return None if "[" in text else text.removesuffix(" | null")


def parse(parser: Any, given: list[str], only_given: bool = False) -> dict[str, Any]:
    """Parse flags into a flat dict; what does not fit is an InputError of one line."""
    from argparse import ArgumentError

    _refuse_groups(parser, given)
    try:
        parsed = parser.parse_args(_bare_switches(parser, given), defaults=not only_given)
    except (ArgumentError, TypeError, ValueError) as error:
        raise InputError(f"{parser.prog}: {_plainly(parser, str(error))}; see `{parser.prog} --help`") from error
    return dict(vars(parsed.as_flat()))


def _refuse_groups(parser: Any, given: list[str]) -> None:
    """jsonargparse takes a file or a dict for a group of keys, such as --input, and imports a class that it names."""
    groups = {o for a in parser._actions if type(a).__name__ == "_ActionConfigLoad" for o in a.option_strings}
    keys = [o for a in parser._actions for o in a.option_strings if o not in groups]
    for name in (word.partition("=")[0] for word in given):
        if name in groups:
            key = next(key for key in keys if key.startswith(f"{name}."))
            raise InputError(
                f"{parser.prog}: {name} is a group of keys; set them one by one, such as {key}, or by --config"
            )


def _plainly(parser: Any, message: str) -> str:
    """The parser's message with what helps added: the flag's dashes, and the nearest flag there is."""
    from difflib import get_close_matches

    message = re.sub(r'Parser key "([\w.]+)":', r"--\1:", message)
    flags = [option for action in parser._actions for option in action.option_strings]
    start, _, names = message.partition(": ")
    if start.endswith("arguments are required"):
        shown = {a.dest: a.metavar for a in parser._actions if a.metavar and not a.option_strings}
        missing = (f"--{n}" if f"--{n}" in flags else shown.get(n, n.upper()) for n in names.split(", "))
        return f"missing {', '.join(missing)}"
    close = get_close_matches(names.split(" ")[0], flags, 1) if start == "unrecognized arguments" else []
    return message + (f"; did you mean {close[0]}?" if close else "")


def _bare_switches(parser: Any, given: list[str]) -> list[str]:
    """Let `--overwrite` stand for `--overwrite true`, none for null, and dashes in a flag for underscores: jsonargparse
    knows only the latter."""
    options = {o for a in parser._actions for o in a.option_strings}
    given = _joined(given, options)
    kinds = {o: getattr(a, "_typehint", None) for a in parser._actions for o in a.option_strings}
    spelled: list[str] = []
    for before, word, following in zip(["", *given], given, [*given[1:], ""]):
        name, equals, value = word.partition("=")
        plain = "--" + name[2:].replace("-", "_")
        if not word.startswith("--"):
            spelled.append(_plain_value(word, kinds.get(before)))
            continue
        flag = plain if name not in options and plain in options else name
        spelled.append(flag + equals + _plain_value(value, kinds.get(flag)))
        if not equals and kinds.get(flag) is bool and following.lower() not in ("true", "false"):
            spelled.append("true")
    return spelled


def _plain_value(word: str, kind: Any) -> str:
    """`none` as null for a flag that may be left out, `True` as true for a switch; names that a flag takes stay.

    >>> [_plain_value("none", kind) for kind in (int | None, str)]
    ['null', 'none']
    """
    known = get_args(kind)
    if word in ("none", "None") and type(None) in known and word not in known:
        return "null"
    return word.lower() if word in ("True", "False") and bool in (kind, *known) else word


def _joined(given: list[str], options: set[str]) -> list[str]:
    """Let `--window -1000,400` stand for `--window=-1000,400`: a value that begins with a minus is taken for a flag.

    >>> _joined(["--window", "-1000,400", "--seed", "1"], {"--window", "--seed"})
    ['--window=-1000,400', '--seed', '1']
    """
    joined: list[str] = []
    for word in given:
        if re.match(r"-[\d.]", word) and joined and joined[-1] in options:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
