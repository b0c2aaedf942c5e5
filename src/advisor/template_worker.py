"""Renders a model's chat template in a process of its own, with limits on time, memory and output.

A template is a program from a stranger. The sandbox keeps it away from Python's internals, and nothing but a process
limit keeps it from running forever or building a text of gigabytes. Read by `src.advisor.chat_format`; this file
imports nothing of the project, so that starting it takes a tenth of a second.

Reads one JSON object from standard input: template, tokens (special tokens by name), marks (two texts), samples (pairs
of texts), cpu_s, memory_bytes, max_chars. Writes {"before", "between", "after", "folded"} or {"refused": reason}.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
import jinja2.ext
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

FIXED_NOW: Final = datetime(2025, 1, 1)
"""The fixed time a template sees: the same question must read the same tomorrow."""


class _Refused(Exception):
    """Why the template cannot be used; no other way of asking would help."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` blocks mark an assistant's tokens for training; here their content is all that matters."""

    tags = {"generation"}  # noqa: RUF012  (as the base class declares it)

    def parse(self, parser: jinja2.parser.Parser) -> Any:
        """The statements between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """Namespaces without names of Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that `namespace(self=...)` works
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def environment() -> ImmutableSandboxedEnvironment:
    """What transformers gives a chat template, with the clock fixed and without what answers by chance."""

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals |= {"raise_exception": raise_exception, "strftime_now": FIXED_NOW.strftime, "namespace": _Namespace}
    del made.filters["random"], made.globals["lipsum"]
    return made


def split(order: Mapping[str, Any]) -> dict[str, Any]:
    """The template's text before, between and after the two texts it is given, by the first way of asking in which
    both arrive whole, once, and in order."""
    try:
        template = environment().from_string(order["template"])
    except (TemplateError, RecursionError) as error:
        return {"refused": f"it is not a valid template: {_words(error)}"}
    faults = []
    for folded, ask in ((False, _two), (False, _two_of_parts), (True, _one), (True, _one_of_parts)):
        try:
            return _parts(_renderer(template, order, ask), order, folded=folded)
        except _Refused as refusal:
            return {"refused": str(refusal)}
        except MemoryError:
            return {"refused": f"it takes more than {order['memory_bytes'] / 2**20:.0f} MiB of memory"}
        except Exception as error:  # a template may raise whatever Python raises
            faults.append(_words(error))
    return {"refused": f"the texts do not come out whole: {faults[0]}"}


def _renderer(template: jinja2.Template, order: Mapping[str, Any], ask: Callable[[str, str], list[Any]]) -> Any:
    def render(system: str, user: str) -> str:
        pieces, length = [], 0
        try:
            for piece in template.generate(
                messages=ask(system, user), tools=None, documents=None, add_generation_prompt=True,
                enable_thinking=False, thinking=False, **order["tokens"],
            ):  # fmt: skip
                pieces.append(piece)
                length += len(piece)
                if length > order["max_chars"]:
                    raise _Refused(f"it writes more than {order['max_chars']:,} characters")
        except SecurityError as error:
            raise _Refused(f"it reaches for what a template must not touch: {_words(error)}") from error
        return "".join(pieces)

    return render


def _parts(render: Callable[[str, str], str], order: Mapping[str, Any], *, folded: bool) -> dict[str, Any]:
    system, user = order["marks"]
    text = render(system, user)
    if render(system, user) != text:
        raise _Refused("it writes something else each time")
    if text.count(system) != 1 or text.count(user) != 1:
        lost = "instructions" if text.count(system) != 1 else "question"
        raise ValueError(f"it drops, repeats or changes the {lost}")
    before, _, rest = text.partition(system)
    between, found, after = rest.partition(user)
    if not found:
        raise ValueError("it puts the question before the instructions")
    for sample_system, sample_user in order["samples"]:
        if render(sample_system, sample_user) != before + sample_system + between + sample_user + after:
            raise ValueError("it changes the texts that it is given")
    return {"before": before, "between": between, "after": after, "folded": folded}


def _two(system: str, user: str) -> list[Any]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _two_of_parts(system: str, user: str) -> list[Any]:
    return [{"role": role, "content": _in_parts(text)} for role, text in (("system", system), ("user", user))]


def _one(system: str, user: str) -> list[Any]:
    return [{"role": "user", "content": f"{system}\n\n{user}"}]


def _one_of_parts(system: str, user: str) -> list[Any]:
    return [{"role": "user", "content": _in_parts(f"{system}\n\n{user}")}]


def _in_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


def _words(error: BaseException, limit: int = 300) -> str:
    text = " ".join(itertools.chain([f"{type(error).__name__}:"], str(error)[:2000].split()))
    return text if len(text) <= limit else f"{text[:limit]} ..."


def _limit(cpu_s: int, memory_bytes: int) -> None:
    """Let the kernel end this process when it takes too much."""
    try:
        import resource
    except ImportError:  # not on Windows, where the caller's clock is the only limit
        return
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(arguments: Sequence[str] = ()) -> int:
    """One order from standard input, its answer to standard output."""
    order = json.load(sys.stdin)
    _limit(order["cpu_s"], order["memory_bytes"])
    json.dump(split(order), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
