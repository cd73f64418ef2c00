"""Whoever meets an error is told what to do: each ``InvalidData`` of the sources carries a fix that says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
VERBS = frozenset(
    {
        "add",
        "ask",
        "bring",
        "build",
        "check",
        "choose",
        "convert",
        "copy",
        "correct",
        "declare",
        "delete",
        "do",
        "evaluate",
        "export",
        "extend",
        "give",
        "import",
        "install",
        "keep",
        "let",
        "look",
        "make",
        "mount",
        "move",
        "name",
        "number",
        "open",
        "pack",
        "plan",
        "predict",
        "put",
        "recreate",
        "remove",
        "rename",
        "renumber",
        "repair",
        "replace",
        "resample",
        "restore",
        "run",
        "save",
        "say",
        "set",
        "show",
        "split",
        "start",
        "take",
        "train",
        "unpack",
        "update",
        "upload",
        "use",
        "wait",
        "write",
    }
)
"""How a sentence begins that tells a person what to do."""


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for part in ("nnunet_box", "challenges", "containers"):
        for file in sorted((REPOSITORY / part).rglob("*.py")):
            yield file, ast.parse(file.read_text(encoding="utf-8"))


class Texts:
    """What an expression of the sources may say, followed through names, parameters and what calls hand over."""

    def __init__(self, modules: list[tuple[Path, ast.Module]]) -> None:
        self.calls: dict[str, list[ast.Call]] = {}
        self.homes: dict[ast.AST, list[ast.AST]] = {}
        self.constants: dict[str, list[tuple[ast.AST, ast.expr]]] = {}
        for _, module in modules:
            self._walk(module, [module])

    def _walk(self, node: ast.AST, around: list[ast.AST]) -> None:
        self.homes[node] = around
        if isinstance(node, ast.Call):
            self.calls.setdefault(name_of(node.func), []).append(node)
        if isinstance(node, ast.Assign) and len(around) == 1:
            for target in node.targets:
                if isinstance(target, ast.Name):
                    self.constants.setdefault(target.id, []).append((around[0], node.value))
        inside = [*around, node] if isinstance(node, ast.FunctionDef | ast.ClassDef) else around
        for child in ast.iter_child_nodes(node):
            self._walk(child, inside)

    def of(self, value: ast.expr, depth: int = 0) -> list[str]:
        assert depth < 8, ast.unparse(value)
        if isinstance(value, ast.Constant):
            return [str(value.value)]
        if isinstance(value, ast.JoinedStr):
            texts = [""]
            for part in value.values:
                inner = part.value if isinstance(part, ast.FormattedValue) else part
                known = isinstance(inner, ast.Constant) or (isinstance(inner, ast.Name) and inner.id.isupper())
                added = self.of(inner, depth + 1) if known else ["X"]
                texts = [text + more for text in texts for more in added]
            return texts
        if isinstance(value, ast.BinOp):
            return [a + b for a in self.of(value.left, depth + 1) for b in self.of(value.right, depth + 1)]
        if isinstance(value, ast.IfExp):
            return [*self.of(value.body, depth + 1), *self.of(value.orelse, depth + 1)]
        if isinstance(value, ast.Attribute) and value.attr == "fix":
            return []  # handed on from another InvalidData
        assert isinstance(value, ast.Name), f"cannot follow {ast.unparse(value)}"
        return self._named(value, depth)

    def _named(self, name: ast.Name, depth: int) -> list[str]:
        module = self.homes[name][0]
        for function in reversed(self.homes[name]):
            if not isinstance(function, ast.FunctionDef):
                continue
            assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
            parts = [part for node in assigned for target in node.targets for part in pairs(target, node.value)]
            values = [value for one, value in parts if one.id == name.id]
            if values:
                return [text for value in values for text in self.of(value, depth + 1)]
            parameters = [parameter.arg for parameter in (*function.args.args, *function.args.kwonlyargs)]
            if name.id in parameters:
                return self._handed(function, name.id, parameters.index(name.id), depth)
        everywhere = self.constants.get(name.id, [])
        values = [value for home, value in everywhere if home is module] or [value for _, value in everywhere]
        assert values, f"cannot follow {name.id}"
        return [text for value in values for text in self.of(value, depth + 1)]

    def _handed(self, function: ast.FunctionDef, parameter: str, position: int, depth: int) -> list[str]:
        texts: list[str] = []
        for call in self.calls.get(function.name, []):
            # A method's first parameter is not written in the call.
            method = bool(function.args.args) and function.args.args[0].arg in ("self", "cls")
            handed = argument(call, parameter, position - method)
            texts += self.of(handed, depth + 1) if handed is not None else []
        with_default = dict(zip(reversed(function.args.args), reversed(function.args.defaults), strict=False))
        defaults = [value for one, value in with_default.items() if one.arg == parameter]
        texts += [text for value in defaults for text in self.of(value, depth + 1)]
        assert texts, f"nobody calls {function.name} with {parameter}"
        return texts


def pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.Name, ast.expr]]:
    """Names and values of an assignment, those of tuples one by one."""
    if isinstance(target, ast.Name):
        yield target, value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, part in zip(target.elts, value.elts, strict=True):
            yield from pairs(one, part)


def name_of(function: ast.expr) -> str:
    return getattr(function, "id", getattr(function, "attr", ""))


def argument(call: ast.Call, name: str, position: int) -> ast.expr | None:
    by_name = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
    return by_name if by_name is not None else (call.args[position] if len(call.args) > position >= 0 else None)


def tells_what_to_do(text: str) -> bool:
    """Whether a sentence, or a part of one after a colon, a semicolon or a comma, begins with a verb that commands."""
    parts = [part.split() for end in ".:;,?" for part in text.replace("\n", " ").split(end)]
    # "where it was trained, or take the other one"
    first = [words[1] if words[0] in ("or", "and") and len(words) > 1 else words[0] for words in parts if words]
    return any(word.lower().strip("(\"'") in VERBS for word in first)


def fixes() -> list[tuple[str, str]]:
    modules = list(sources())
    texts, found = Texts(modules), []
    for file, module in modules:
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and name_of(node.func) == "InvalidData":
                place = f"{file.relative_to(REPOSITORY)}:{node.lineno}"
                fix = argument(node, "fix", 3)
                assert fix is not None, f"{place}: no fix"
                found += [(place, text) for text in texts.of(fix)]
    return found


def test_every_error_about_data_says_what_to_do():
    told = fixes()
    assert len({place for place, _ in told}) > 250
    poor = [f"{place}: {text!r}" for place, text in told if not tells_what_to_do(text)]
    assert not poor, "\n".join(poor)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("Copy it again from the download.", True),
        ("The copy is incomplete: unpack RawData.zip again.", True),
        ("Region-based models are not imported. Train it with nnunet_box.", True),
        ("Is it a label map?", False),
        ("Image and label must match voxel by voxel.", False),
        ("", False),
    ],
)
def test_what_counts_as_saying_what_to_do(text, good):
    assert tells_what_to_do(text) is good
