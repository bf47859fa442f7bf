"""What code a stage really runs, as a digest per source file.

Starting from the stage's module, every definition (function, class, constant) that can
be reached is collected, across files and lazy imports; its syntax tree without
docstrings is hashed. So an edit reruns the stages that use the edited definition, and
comments, docstrings and formatting rerun nothing.

It reads source text only and imports nothing. It relies on the house rules: absolute
imports, empty `__init__.py`, no dynamic imports except by a recipe's module name,
which the workflow passes as a further root. Statements at a module's top level that
are not definitions count for everybody who reaches the module.
"""

import ast
import functools
import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

WHOLE = "*"
Symbol = tuple[str, str]  # (dotted module, name in it or WHOLE)


@dataclass
class _Module:
    """Top-level definitions of one source file and what names mean in it."""

    path: Path
    definitions: dict[str, list[ast.stmt]] = field(
        default_factory=lambda: defaultdict(list)
    )
    statements: list[ast.stmt] = field(default_factory=list)
    aliases: dict[str, Symbol] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)  # local name -> what it is


class CodeDigest:
    """Digests of the code below one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._modules: dict[str, _Module | None] = {}
        # Many stages reach the same definitions: each is looked into once.
        self._references = functools.cache(self._find_references)

    @functools.cache  # noqa: B019 - one object lives as long as the workflow
    def of(self, *roots: str) -> dict[str, str]:
        """Return {file: digest} of all that the root modules reach."""
        for root in roots:
            if self._module(root) is None:
                raise ValueError(f"{root}: no such module below {self.root}")
        reached: set[Symbol] = set()
        queue: list[Symbol] = [(root, WHOLE) for root in roots]
        while queue:
            symbol = queue.pop()
            if symbol in reached or self._module(symbol[0]) is None:
                continue
            reached.add(symbol)
            queue.extend(self._uses(symbol))
        return self._hash(reached)

    def _hash(self, reached: set[Symbol]) -> dict[str, str]:
        digests: dict[str, str] = {}
        for name in sorted({module for module, _ in reached}):
            module = self._module(name)
            assert module is not None
            wanted = {symbol for owner, symbol in reached if owner == name}
            nodes = list(module.statements)
            for key, definitions in module.definitions.items():
                if WHOLE in wanted or key in wanted:
                    nodes.extend(definitions)
            nodes.sort(key=lambda node: node.lineno)  # statements mean their order
            used = frozenset().union(*map(_names, nodes)) & module.imports.keys()
            lines = sorted(module.imports[name] for name in used)
            text = "\n".join([*lines, *(_dump(node) for node in nodes)])
            file = str(module.path.relative_to(self.root))
            digests[file] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return digests

    def _uses(self, symbol: Symbol) -> set[Symbol]:
        """Return what one symbol's code refers to, in this project."""
        name, wanted = symbol
        module = self._module(name)
        assert module is not None
        if wanted == WHOLE:
            nodes = [n for nodes in module.definitions.values() for n in nodes]
        elif wanted in module.definitions:
            nodes = module.definitions[wanted]
        elif wanted in module.aliases:
            return {module.aliases[wanted]}
        else:
            nodes = []  # a name made by a top-level statement, which always counts
        uses: set[Symbol] = set()
        for node in [*nodes, *module.statements]:
            uses |= self._references(name, node)
        return uses

    def _find_references(self, name: str, node: ast.stmt) -> set[Symbol]:
        module = self._module(name)
        assert module is not None
        aliases = dict(module.aliases)
        for inner in _walk(node):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                aliases.update(self._bindings(inner))
        found: set[Symbol] = set()
        inside_longer_chain: set[ast.AST] = set()  # `a.b` of `a.b.c` is walked later
        for inner in _walk(node):
            if isinstance(inner, ast.Attribute):
                inside_longer_chain.add(inner.value)
            chain = [] if inner in inside_longer_chain else _dotted(inner)
            if not chain:
                continue
            if chain[0] in aliases:
                found.add(self._follow(aliases[chain[0]], chain[1:]))
            elif chain[0] in module.definitions:
                found.add((name, chain[0]))
        return found

    def _follow(self, symbol: Symbol, attributes: list[str]) -> Symbol:
        """Resolve `module.attribute` to the attribute it names."""
        owner, wanted = symbol
        if wanted == WHOLE and attributes:
            below = f"{owner}.{attributes[0]}"
            if self._exists(below):
                return self._follow((below, WHOLE), attributes[1:])
            return owner, attributes[0]
        return symbol

    def _bindings(self, node: ast.Import | ast.ImportFrom) -> dict[str, Symbol]:
        """Return what names an import statement binds, for modules of this project."""
        bound: dict[str, Symbol] = {}
        for alias in node.names:
            if isinstance(node, ast.Import):
                target = alias.name if alias.asname else alias.name.split(".")[0]
                if self._exists(target):
                    bound[alias.asname or target] = (target, WHOLE)
                continue
            owner = node.module or ""
            local = alias.asname or alias.name
            if self._module(f"{owner}.{alias.name}") is not None:
                bound[local] = (f"{owner}.{alias.name}", WHOLE)
            elif self._module(owner) is not None:
                bound[local] = (owner, alias.name)
        return bound

    def _exists(self, name: str) -> bool:
        return (self.root / name.replace(".", "/")).is_dir() or (
            self._module(name) is not None
        )

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            self._modules[name] = None
            path = self.root / (name.replace(".", "/") + ".py")
            if path.is_file():
                self._modules[name] = self._parse(path)
        return self._modules[name]

    def _parse(self, path: Path) -> _Module:
        module = _Module(path)
        for node in _without_docstrings(ast.parse(path.read_bytes())).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                module.definitions[node.name].append(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for name in _targets(node):
                    module.definitions[name].append(node)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                module.aliases.update(self._bindings(node))
                module.imports.update(_imported(node))
            else:
                module.statements.append(node)
        return module


def _targets(node: ast.Assign | ast.AnnAssign | ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [
        name.id
        for target in targets
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    ]


def _dotted(node: ast.AST) -> list[str]:
    """Return ["a", "b", "c"] for the expression a.b.c, else nothing."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return []
    return [node.id, *reversed(parts)]


def _imported(node: ast.Import | ast.ImportFrom) -> dict[str, str]:
    """Return each name that an import binds, with what it is bound to."""
    origin = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
    return {
        alias.asname
        or alias.name.split(".")[0]: f"{alias.asname} = {origin}{alias.name}"
        for alias in node.names
    }


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Take out what stands in a tree for people alone."""
    for inner in ast.walk(tree):
        body = getattr(inner, "body", None)
        if isinstance(body, list):
            inner.body = [n for n in body if not _is_text(n)] or [ast.Pass()]
    return tree


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@functools.cache
def _walk(node: ast.stmt) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(node))


@functools.cache
def _names(node: ast.stmt) -> frozenset[str]:
    return frozenset(n.id for n in _walk(node) if isinstance(n, ast.Name))


@functools.cache
def _dump(node: ast.stmt) -> str:
    """Write a definition down without comments and positions."""
    return ast.dump(ast.Module([node], []))
