"""Renders the templates in templates/ and many small ones with Jinja2, and writes what Swift must render to
templates.json. Run with Jinja2 3.1 (pip install jinja2): python3 Tests/Fixtures/templates.py

The environment is the one that Hugging Face transformers sets up for chat templates, except that lists and
dictionaries may be changed: transformers forbids it, other runtimes do not, and some models rely on it."""

import datetime
import json
import os
import pathlib
import random
import time

import jinja2
import jinja2.ext
from jinja2.sandbox import SandboxedEnvironment

NOW = 1_700_000_000
HERE = pathlib.Path(__file__).parent


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("render"), [], [], body).set_lineno(line)

    def render(self, caller):
        return caller()


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    result = SandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    result.filters["tojson"] = to_json
    result.globals["raise_exception"] = raise_exception
    result.globals["strftime_now"] = lambda form: datetime.datetime.fromtimestamp(NOW).strftime(form)
    return result


def render(source, variables):
    """The text, or None where Jinja2 refuses."""
    try:
        text = environment().from_string(source).render(**json.loads(json.dumps(variables)))
        return None if " at 0x" in text else text
    except Exception:
        return None


# Conversations


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(arguments, id="call_0001"):
    return {"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}}


def tool(text, id="call_0001"):
    return {"role": "tool", "content": text, "tool_call_id": id}


SYSTEM = {"role": "system", "content": "You are terse.  \n"}
TOOLS = [
    {"type": "function", "function": {
        "name": "weather", "description": "Weather <now> & \"soon\" – für dich", "parameters": {
            "type": "object", "required": ["city"], "properties": {
                "city": {"type": "string", "description": "The city"},
                "days": {"type": ["integer", "null"], "default": 1},
                "unit": {"enum": ["°C", "°F"]},
                "more": {"type": "object", "properties": {"tags": {"type": "array", "items": {"type": "string"}}}},
                "list": {"type": "array"}}}}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
ARGUMENTS = {"city": "Zürich", "days": 2, "f": 1.5, "more": {"tags": ["a", "b"]}, "ok": True, "no": None}
CONVERSATIONS = {
    "one": [user("Hello <b>&\"'</b>")],
    "system": [SYSTEM, user("  Hi there \n")],
    "turns": [SYSTEM, user("Hi"), assistant("Hello!"), user("日本語 ☕️ 😀\n\n")],
    "thoughts": [user("2+2?"), assistant("<think>\nhm\n</think>\n\n4"), user("ok?"), assistant("yes", reasoning_content="why not")],
    "calls": [SYSTEM, user("Weather?"), assistant("", tool_calls=[call(ARGUMENTS)]), tool('{"t": 20}'), assistant("20."), user("Thanks")],
    "two calls": [user("Weather?"), assistant("looking", tool_calls=[call(ARGUMENTS), call({"city": "Bern"}, "call_0002")]), tool("1"), tool("2", "call_0002")],
    "text calls": [user("Weather?"), assistant(None, tool_calls=[call(json.dumps(ARGUMENTS))]), tool("sunny")],
    "parts": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is it? "}]}],
    "none": [],
}


def conversation_cases():
    for path in sorted((HERE / "templates").glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        for name, messages in CONVERSATIONS.items():
            for tools in (None, TOOLS) if "call" in name or name in ("system", "none") else (None,):
                for prompt in (True, False) if name in ("turns", "none") else (True,):
                    variables = {"add_generation_prompt": prompt, "bos_token": "<bos>", "eos_token": "<eos>"}
                    if name == "thoughts":
                        variables["enable_thinking"] = False
                    if name == "system" and tools:
                        variables["documents"] = [{"title": "A & B", "text": "one\ntwo", "n": [1, {"x": None}]}]
                        variables["today"] = "today"
                    if name == "calls" and tools:
                        variables["builtins"] = ["weather"]
                    text = render(source, {"documents": None, **variables, "messages": messages, "tools": tools})
                    yield {
                        "file": path.stem, "messages": name, "tools": tools is not None, "variables": variables,
                        "text": text,
                    }


# Random templates

VALUES = {
    "s": "Hello, World! ", "t": "a,b,,c", "u": "Ünïcödé 日本 ß ǆ\t\n x", "e": "", "q": "it's \"q\"\\ \u0007", "num": "42",
    "n": 5, "z": 0, "neg": -7, "f": 2.5, "g": -0.1, "big": 1e20, "h": True, "no": False, "nil": None,
    "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "mix": [1, "x", None, 2.0, True, [1, 2]], "el": [],
    "d": {"b": 1, "a": "x", "items": 5, "n": {"k": [1, 2, {"z": None}]}}, "ed": {},
    "ms": [{"role": "user", "content": "hi", "n": 2}, {"role": "assistant", "content": None, "n": 1},
           {"role": "user", "content": "<b>\"q\" 'x'</b>\n", "n": 3}],
}


class Grammar:
    """Random expressions and statements that are mostly well typed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def pick(self, *options):
        return self.random.choice(options)

    def leaf(self, depth):
        return depth <= 0 or self.random.random() < 0.2

    def integer(self, d):
        if self.leaf(d):
            return self.pick("0", "1", "2", "7", "n", "z", "neg", "10", "d.n.k[0]", "ms[-1].n")
        return self.pick(
            lambda: f"({self.integer(d - 1)} {self.pick('+', '-', '*', '//', '%')} {self.integer(d - 1)})",
            lambda: f"({self.pick(self.string, self.list)(d - 1)})|length",
            lambda: f"({self.string(d - 1)})|int",
            lambda: f"(-({self.integer(d - 1)}))|abs",
            lambda: f"({self.integer(d - 1)} if {self.boolean(d - 1)} else {self.integer(d - 1)})",
            lambda: "({}).{}".format(self.string(d - 1), self.pick("find('l')", "rfind(' ')", "count('a')", "find('')")),
            lambda: f"({self.list(d - 1)}).count({self.any(d - 1)})",
            lambda: "[{},{}]|{}".format(self.integer(d - 1), self.integer(d - 1), self.pick("sum", "min", "max", "first", "last")),
        )()

    def double(self, d):
        return self.pick(
            "f", "g", "1.5", "0.1", "1e3", "big", f"({self.integer(d)})|float", f"({self.integer(d)} / 4)",
            f"({self.integer(d)} * f)", "(2.675)|round(2)", "g|round(1, 'floor')", "(0.5)|round", "f ** 3",
            f"(-7.5 {self.pick('//', '%')} {self.pick('2', '-2', '0.3')})")

    def string(self, d):
        if self.leaf(d):
            return self.pick(
                "s", "t", "u", "e", "q", "num", "'a-b c_d'", "\"it's\"", "'\\n l\\n'", "'<&>'", "ms[0].role",
                "d.a", "'line1\\nline2\\n\\nline4'")
        methods = (
            "strip()", "strip('Hd! ')", "lstrip('aH')", "rstrip('!\\n x')", "upper()", "lower()", "title()",
            "capitalize()", "replace('l', 'L')", "replace('', '-')", "replace('l', 'L', 1)", "removeprefix('He')",
            "removesuffix('x')", "zfill(10)", "center(21, '*')", "ljust(15, '.')", "rjust(15)", "swapcase()", "join(ls)")
        filters = (
            "trim", "trim('x')", "upper", "lower", "capitalize", "title", "replace('l', 'LL', 1)", "reverse", "indent",
            "indent(2, true)", "indent(2, blank=true)", "indent('>')", "e", "center(20)", "default('D', true)", "first")
        json_filters = (
            "tojson", "tojson(indent=2)", "tojson(ensure_ascii=true)", "tojson(separators=(',', ':'))", "string")
        bounds = lambda: self.pick("", self.integer(d - 1))
        return self.pick(
            lambda: f"({self.string(d - 1)} + {self.string(d - 1)})",
            lambda: f"({self.any(d - 1)} ~ {self.any(d - 1)})",
            lambda: f"({self.string(d - 1)}).{self.pick(*methods)}",
            lambda: f"({self.string(d - 1)}).{self.pick(*methods)}",
            lambda: f"({self.string(d - 1)})|{self.pick(*filters)}",
            lambda: f"({self.string(d - 1)})|{self.pick(*filters)}",
            lambda: f"({self.any(d - 1)})|{self.pick(*json_filters)}",
            lambda: f"({self.list(d - 1)})|join(', ')",
            lambda: f"({self.string(d - 1)})[{bounds()}:{bounds()}{self.pick('', ':', ':-1', ':2')}]",
            lambda: "('{}' % ({}, {}))".format(
                self.pick("%d %s", "%05d %r", "%+d %.2s", "%x %s", "%5.2f|%s", "%-8d|%5s", "%g %s"),
                self.integer(d - 1), self.string(d - 1)),
            lambda: "'{}'.format({}, {})".format(
                self.pick("{} {}", "{1}{0}", "{:>5}|{:<8}|", "{0!r} {1!s}", "{:05d}{}", "{:,}{:^9}", "{:.2f}{}", "{{}}{}{}"),
                self.integer(d - 1), self.string(d - 1)),
        )()

    def list(self, d):
        if self.leaf(d):
            return self.pick("l", "ls", "mix", "el", "[1, 2, 3]", "[]", "d.n.k", "[none]")
        splits = ("split()", "split(',')", "split(',', 1)", "split(maxsplit=1)", "rsplit(none, 1)", "splitlines()")
        of_messages = (
            "map(attribute='role')", "map(attribute='zz', default='Q')", "selectattr('content')",
            "selectattr('role', 'equalto', 'user')", "selectattr('n', 'gt', 1)|map(attribute='n')",
            "rejectattr('role', 'eq', 'user')", "sort(attribute='n')", "sort(attribute='role,n')", "unique(attribute='role')")
        return self.pick(
            lambda: f"(({self.list(d - 1)})|list + ({self.list(d - 1)})|list)",
            lambda: f"({self.string(d - 1)}).{self.pick(*splits)}",
            lambda: "(({})|list)[{}:{}]".format(self.list(d - 1), self.pick("", self.integer(d - 1)), self.pick("", self.integer(d - 1))),
            lambda: "({})|{}".format(
                self.pick("l", "[3, 1, 2]", "['b', 'A', 'a']", "ls"),
                self.pick("sort", "sort(reverse=true)", "sort(case_sensitive=true)", "unique|list", "map('string')|list")),
            lambda: f"ms|{self.pick(*of_messages)}|list",
            lambda: f"({self.dictionary(d - 1)})|{self.pick('list', 'dictsort', 'items|list')}",
            lambda: f"range({self.pick('3', '1, 5', '5, 1, -2', 'n')})|list",
            lambda: "({})|{}|list".format(self.list(d - 1), self.pick("select", "reject('none')", "reverse", "map('tojson')")),
            lambda: f"[{self.any(d - 1)}, {self.any(d - 1)}]",
        )()

    def dictionary(self, d):
        return self.pick(
            "d", "ed", "ms[0]", "d.n", "{'b': 1, 'A': 2, 'a': 3}", f"dict(a={self.any(d)})",
            f"{{'k': {self.any(d)}, 'j': {self.any(d)}}}")

    def boolean(self, d):
        if self.leaf(d):
            return self.pick("h", "no", "nil", "d.zz", "undefd")
        tests = (
            "defined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "float", "boolean",
            "true", "equalto(1)", "ne 1", "in [1, 2, 'a']", "sameas none", "lower")
        kind = self.pick(self.integer, self.string, self.double)
        return self.pick(
            lambda: f"({kind(d - 1)} {self.pick('==', '!=', '<', '<=', '>', '>=')} {kind(d - 1)})",
            lambda: f"({self.any(d - 1)} == {self.any(d - 1)})",
            lambda: f"({self.string(d - 1)} {self.pick('in', 'not in')} {self.string(d - 1)})",
            lambda: f"({self.any(d - 1)} in {self.list(d - 1)})",
            lambda: f"(({self.any(d - 1)}) is {self.pick('', 'not ')}{self.pick(*tests)})",
            lambda: f"not ({self.any(d - 1)})",
            lambda: f"({self.any(d - 1)} {self.pick('and', 'or')} {self.any(d - 1)})",
            lambda: "({}).{}".format(self.string(d - 1), self.pick("isdigit()", "isalpha()", "isupper()", "startswith(('H', 'x'))", "endswith('! ')")),
            lambda: f"({self.integer(d - 1)} < {self.integer(d - 1)} <= {self.integer(d - 1)})",
        )()

    def any(self, d):
        return self.pick(
            self.integer, self.double, self.string, self.string, self.list, self.list, self.dictionary, self.boolean)(d)

    def tag(self, body):
        return "{%" + self.pick("", "", "-", "+") + f" {body} " + self.pick("", "", "-", "+") + "%}"

    def space(self):
        return self.pick("", " ", "\n", "\n  ", "  \n\n ")

    def statement(self, d):
        if self.leaf(d):
            return f"{self.space()}{{{{{self.pick('', '-')} {self.any(2)} {self.pick('', '-')}}}}}{self.space()}"
        rest = lambda: self.space() + self.statement(d - 1) + self.space()
        loop_bodies = (
            "{{ loop.index }}", "{{ loop.last }}{{ loop.revindex }}", "{{ loop.previtem }}/{{ loop.nextitem }}",
            "{{ loop.cycle('a', 'b') }}", "{{ x }}", "{% if loop.index0 == 1 %}{% continue %}{% endif %}",
            "{% if loop.first %}{% else %}{% break %}{% endif %}", "{{ loop.changed(x is string) }}")
        loop = "for x in {}{}".format(
            self.pick("l", "ls", "ms", "d", "s", "el", "range(4)", "d.items()", "mix", "ls|sort", "undefd"),
            self.pick("", " if x", " if x is string"))
        return self.pick(
            lambda: self.tag(f"if {self.any(2)}") + rest() + self.tag("else") + rest() + self.tag("endif"),
            lambda: self.tag(loop) + self.pick(*loop_bodies) + rest() + self.pick("", self.tag("else") + "E") + self.tag("endfor"),
            lambda: self.tag(f"set {self.pick('v', 'v2', 'ns.v')} = {self.any(2)}") + rest() + "{{ v }}{{ ns.v }}",
            lambda: self.tag(f"set w{self.pick('', '|upper', '|trim|length')}") + rest() + self.tag("endset") + "{{ w }}",
            lambda: self.tag(f"macro m(a, b={self.any(1)})") + rest() + "{{ a }}{{ b }}" + self.tag("endmacro")
            + self.pick("{{ m(1) }}", "{{ m() }}", "{{ m(1, b=2) }}", "{{ m(a=n) }}"),
            lambda: self.tag("filter upper") + rest() + self.tag("endfilter"),
            lambda: self.tag(f"with y = {self.any(1)}") + "{{ y }}" + rest() + self.tag("endwith"),
            lambda: "{#" + self.pick("", "-") + " c " + self.pick("", "-", "+") + "#}" + rest(),
            lambda: self.tag("generation") + rest() + self.tag("endgeneration"),
        )()

    def template(self):
        if self.random.random() < 0.6:
            return f"{{{{ {self.any(3)} }}}}"
        return "{% set ns = namespace(v=1) %}\n" + "".join(self.statement(2) for _ in range(2))


def random_cases(count):
    grammar = Grammar(seed=1)
    while count > 0:
        source = grammar.template()
        text = render(source, VALUES)
        if len(source) < 300 and (text is None or len(text) < 300):
            count -= 1
            yield [source, text]


def main():
    os.environ["TZ"] = "UTC"
    time.tzset()
    fixture = {
        "now": NOW, "messages": CONVERSATIONS, "tools": TOOLS, "cases": list(conversation_cases()), "values": VALUES, "random": list(random_cases(1200)),
    }
    with open(HERE / "templates.json", "w", encoding="utf-8") as file:
        json.dump(fixture, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
