"""Every command, script and link of README and docs is real: commands are parsed by their own parsers, as they stand.

That they run on tiny data is shown by test_docs_run.py. A page or command that is added is covered by itself: a line of
code that calls stochseg must parse; a command inside a sentence may leave things out, but has no flag that does not exist.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import stochseg
from stochseg import cli
from stochseg.command_line import parse
from stochseg.errors import InputError
from stochseg.presets import load_config, study_of

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
CALL = re.compile(r"(?:^|[\s'])stochseg (?=[a-z-])")
PLACEHOLDERS = {"K": "2", "N": "4", "...": None, "IMAGE...": "IMAGE"}
"""What stands for something: by itself a number, and dots for more of the same."""


@dataclass(frozen=True)
class Command:
    """words: after `stochseg`; whole: a line of code, that must stand by itself."""

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}: stochseg {' '.join(self.words)}"


def code_lines(text: str) -> Iterator[str]:
    """Lines of code: fenced as a shell's or as nothing's, or indented by four; a line that ends in a backslash goes on."""
    blocks = [body for language, body in FENCE.findall(text) if language in ("", "bash", "sh", "shell", "console")]
    blocks += [line[4:] for line in re.findall(r"(?:^    .*\\\n)*^    .*$", FENCE.sub("", text), re.MULTILINE)]
    for block in blocks:
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()


def words_of(call: str) -> tuple[str, ...]:
    """The words of a call, up to what ends a command in a shell."""
    lexer = shlex.shlex(call, posix=True, punctuation_chars="|;&()")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|;&()"):
            break
        shown = PLACEHOLDERS.get(word, word)
        words += [] if shown is None else [shown]
    return tuple(words)


def commands_in(page: str, text: str) -> Iterator[Command]:
    lines = [(re.sub(r"\s#.*", "", line), True) for line in code_lines(text)]
    spans = [(span, False) for span in SPAN.findall(FENCE.sub("", text))]
    for line, is_code in lines + spans:
        for match in CALL.finditer(line):
            rest = line[match.end() :]
            if line[: match.start() + 1].count("'") % 2 and "'" in rest:
                rest = rest[: rest.index("'")]  # inside quotes that end
            yield Command(page, words_of(rest), is_code and "..." not in rest.split())


FOUND = [c for page in PAGES for c in commands_in(str(page.relative_to(ROOT)), page.read_text())]
COMMANDS = list({(c.words, c.whole): c for c in FOUND}.values())
"""Each once, however many pages have it."""


class Parsed(Exception):
    """Ends a command when its arguments are known."""

    def __init__(self, flags: dict[str, Any]) -> None:
        super().__init__()
        self.flags = flags


def stop(parser: Any, given: list[str], only_given: bool = False) -> dict[str, Any]:
    raise Parsed(parse(parser, given, only_given))


def flags_of(command: Command) -> dict[str, Any]:
    """The arguments of a command, from its own parser, without running it; InputError where they do not parse."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "parse", stop)
        try:
            cli.dispatch("stochseg", cli.COMMANDS, list(command.words))
        except Parsed as ended:
            return ended.flags
        except SystemExit:
            assert "--help" in command.words
        return {}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.whole], ids=str)
def test_a_line_of_code_parses(command: Command) -> None:
    flags = flags_of(command)
    if command.words[0] == "train" and study_of(flags.get("config", "lidc")) is None:
        ours = ("config", "data", "out", "resume", "verify", "profile")
        load_config(flags.get("config", "lidc"), {name: v for name, v in flags.items() if name not in ours})


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.whole], ids=str)
def test_a_command_in_a_sentence_lacks_no_more_than_arguments(command: Command) -> None:
    if command.words[0] in cli.COMMANDS and len(command.words) == 1:
        return  # the name of a command
    complaint = ""
    try:
        flags_of(command)
    except InputError as error:
        complaint = str(error)
    assert not complaint or ": missing " in complaint


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("report RUN --out page.html", "--out"),
        ("evaluate RUN --data STORE --sample 16", "--samples"),
        ("train --data STORE --training.bach 3", "training.bach"),
        ("sample RUN IMAGE --out DIR --samples many", "--samples"),
        ("sample RUN --out DIR", "missing IMAGE"),
        ("paint RUN", "no such command"),
    ],
)
def test_a_stale_command_would_be_found(words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        flags_of(Command("page", tuple(words.split()), True))


def test_commands_are_found_however_they_are_written() -> None:
    text = (
        "Run `stochseg report RUN`, or\n\n    pip install x && stochseg train --data S \\\n      --steps 3  # stochseg it\n\n"
        "```bash\ntorchrun -m stochseg evaluate R --data S\nsh -c 'A=1 stochseg sample ...'\n```\n"
        "```python\nimport stochseg\n```\n"
    )
    found = {(" ".join(c.words), c.whole) for c in commands_in("page", text)}
    assert found == {
        ("report RUN", False),
        ("train --data S --steps 3", True),
        ("evaluate R --data S", True),
        ("sample", False),
    }
    assert len(COMMANDS) > 60


SCRIPT = re.compile(r"python ((?:examples|benchmarks)/\w+\.py)([^`\n|]*)")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s#]+)(?:#[\w-]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_scripts_targets_links_and_imports_exist(page: Path) -> None:
    text = page.read_text()
    for script, rest in SCRIPT.findall(text):
        source = (ROOT / script).read_text()
        shared = (ROOT / "benchmarks/measuring.py").read_text()
        for made in ast.parse(shared).body:  # the flags that scripts of a kind share
            if isinstance(made, ast.FunctionDef) and made.name.endswith("_parser") and f"{made.name}(" in source:
                source += ast.get_source_segment(shared, made) or ""
        for flag in re.findall(r"(?<!\S)--[\w-]+", rest.split("#")[0]):
            assert f'"{flag}"' in source, f"{script} has no {flag}"
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^ {4}|`)make (\w+)", text, re.MULTILINE):
        assert target in targets
    for link in LINK.findall(text):
        assert (page.parent / link).exists(), link
    for language, body in FENCE.findall(text):
        if language == "python":
            check_imports(body)


def check_imports(code: str) -> None:
    """That a block is Python, and what it imports of the package is there."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "stochseg":
            home = import_module(node.module or "")
            for alias in node.names:
                assert hasattr(home, alias.name) or find_spec(f"{node.module}.{alias.name}"), alias.name
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "stochseg":
            assert hasattr(stochseg, node.attr) or find_spec(f"stochseg.{node.attr}"), node.attr
