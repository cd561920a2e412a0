"""Reads the fenced blocks of a document, the comments that mark them, and the commands inside them."""

import dataclasses
import re
import shlex

from tests.repository import ROOT

EXAMPLE_PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/guides/{p.name}" for p in ROOT.glob("docs/guides/*.md")),
)

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (\w+)(?:: (.*?))? -->\s*\Z")
_ASSIGNMENT = re.compile(r"([A-Z_]+)=(.*)")
_SCRIPT = re.compile(r"scripts/(\w+)\.(py|sh)")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    place: str  # page:line, for messages
    language: str
    text: str
    mark: str  # of the comment above it: "file", "run", "config", "example" or none
    argument: str  # what the mark says after its colon


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line of a block."""

    script: str  # the command's name; of a shell script, with its suffix
    arguments: tuple[str, ...]
    environment: dict[str, str]


def read_blocks(page: str) -> list[Block]:
    """Returns the blocks of a page in order; the path is relative to the repository's root."""
    return split_blocks((ROOT / page).read_text(), page)


def split_blocks(text: str, page: str) -> list[Block]:
    """Returns the fenced blocks of a text."""
    blocks = []
    for fence in _FENCE.finditer(text):
        mark = _MARK.search(text[: fence.start()])
        place = f"{page}:{text.count(chr(10), 0, fence.start()) + 1}"
        blocks.append(Block(place, fence[2], fence[3], mark[1] if mark else "", (mark[2] or "") if mark else ""))
    return blocks


def split_commands(text: str) -> list[Command]:
    """Returns the project's commands in a shell block: scripts of a clone, and `wukong-jax NAME`.

    Raises:
      ValueError: a line that is neither.
    """
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        environment = {}
        while words and (assignment := _ASSIGNMENT.fullmatch(words[0])):
            environment[assignment[1]] = assignment[2]
            del words[0]
        if not words:
            continue
        if words[0] == "python":
            del words[0]
        script = _SCRIPT.fullmatch(words[0].removeprefix("./"))
        if words[0] == "wukong-jax":
            commands.append(Command(words[1], tuple(words[2:]), environment))
        elif script:
            name = script[1] if script[2] == "py" else f"{script[1]}.sh"
            commands.append(Command(name, tuple(words[1:]), environment))
        else:
            raise ValueError(f"{line!r}: not a command of this project")
    return commands
