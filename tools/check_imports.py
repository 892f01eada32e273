"""Compare the imports of gpt2c/ with the map in docs/architecture.md, and look for import cycles.

    python tools/check_imports.py           check; the exit status is 1 if anything is wrong
    python tools/check_imports.py --map     print the map's rows with the actual imports

The map is the table of docs/architecture.md whose first column names modules and folders of gpt2c/, top layer
first. Every module belongs to one row. A row may import only rows below it, and its third column lists
exactly the rows that it imports. Modules of one row may import each other, but not in a cycle. Imports inside
functions and under TYPE_CHECKING count, too: a module that has one depends on the other module.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "gpt2c"
MAP = "docs/architecture.md"
HEADING = "| module or folder |"

Graph = dict[str, set[str]]
"""Module -> the modules that it imports, by dotted names relative to gpt2c, which is "__init__" itself."""


@dataclass(frozen=True)
class Row:
    """A row of the map: its modules and folders ("session", "cli/"), and the names of what it imports."""

    names: tuple[str, ...]
    imports: tuple[str, ...]


def module_name(path: Path) -> str:
    """gpt2c/cli/run.py -> "cli.run"; gpt2c/cli/__init__.py -> "cli"."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(path: Path, known: set[str]) -> Iterator[str]:
    """The modules of the package that a file imports."""
    if path.suffix == ".pyx":  # `ast` cannot parse Cython; its imports from this package are absolute
        yield from re.findall(rf"^from {PACKAGE}\.([\w.]+) import", path.read_text(), re.MULTILINE)
        return
    package = path.relative_to(ROOT / PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE]
            yield from (name.removeprefix(PACKAGE).lstrip(".") or "__init__" for name in names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                target = ".".join([*base, *([node.module] if node.module else [])])
            elif node.module and node.module.split(".")[0] == PACKAGE:
                target = node.module.removeprefix(PACKAGE).lstrip(".")
            else:
                continue
            for alias in node.names:
                inner = f"{target}.{alias.name}" if target else alias.name
                yield inner if inner in known else target or "__init__"


def read_graph() -> Graph:
    """Every module of the package with the modules that it imports."""
    files = [path for path in sorted((ROOT / PACKAGE).rglob("*")) if path.suffix in (".py", ".pyx")]
    known = {module_name(path) for path in files}
    return {module_name(path): set(imports_of(path, known)) & known - {module_name(path)} for path in files}


def cycles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other: strongly connected components (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return found


def read_map(text: str) -> list[Row]:
    """The rows of the map in docs/architecture.md, top layer first."""
    lines = text[text.index(HEADING) :].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        first, _, third = (cell.strip() for cell in line.strip("|").split("|"))
        rows.append(Row(tuple(re.findall(r"`([^`]+)`", first)), tuple(re.findall(r"`([^`]+)`", third))))
    return rows


def row_of(module: str, rows: list[Row]) -> int | None:
    """Index of the row that names a module or its folder; None if there is none."""
    for n, row in enumerate(rows):
        for name in row.names:
            folder = name.removesuffix("/").replace("/", ".")
            if module == folder or (name.endswith("/") and module.startswith(folder + ".")):
                return n
    return None


def name_of(module: str, row: Row) -> str:
    """The name that stands for a module in other rows: the row's only name, else the module's own one."""
    return row.names[0] if len(row.names) == 1 else next(n for n in row.names if n.rstrip("/") == module)


def found_imports(graph: Graph, rows: list[Row], n: int) -> set[str]:
    """Names of what the modules of row n import from other rows."""
    found = set()
    for module, others in graph.items():
        if row_of(module, rows) == n:
            for other in others:
                m = row_of(other, rows)
                if m is not None and m != n:
                    found.add(name_of(other, rows[m]))
    return found


def problems(graph: Graph, rows: list[Row]) -> Iterator[str]:
    """Everything that is wrong, one line each."""
    for group in cycles(graph):
        yield f"import cycle: {', '.join(group)}"
    for module in sorted(graph):
        if row_of(module, rows) is None:
            yield f"{MAP}: no row for {module}"
    for name in (name for row in rows for name in row.names):
        folder = name.rstrip("/").replace("/", ".")
        if folder not in graph:
            yield f"{MAP}: {name} does not exist"
    for n, row in enumerate(rows):
        for module, others in sorted(graph.items()):
            if row_of(module, rows) != n:
                continue
            for other in sorted(others):
                m = row_of(other, rows)
                if m is not None and m < n:
                    yield f"{module} imports upwards: {other}"
        found, listed = found_imports(graph, rows, n), set(row.imports)
        for name in sorted(found - listed):
            yield f"{MAP}: the row of {', '.join(row.names)} does not list {name}, which it imports"
        for name in sorted(listed - found):
            yield f"{MAP}: the row of {', '.join(row.names)} lists {name}, which it does not import"


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the imports of gpt2c/ against docs/architecture.md.")
    parser.add_argument("--map", action="store_true", help="print the actual imports of each row")
    args = parser.parse_args()
    graph, rows = read_graph(), read_map((ROOT / MAP).read_text())
    if args.map:
        order = [name for row in rows for name in row.names]
        for n, row in enumerate(rows):
            found = sorted(found_imports(graph, rows, n), key=order.index)
            print(f"{', '.join(row.names)}: {', '.join(f'`{name}`' for name in found)}")
        return 0
    wrong = list(problems(graph, rows))
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        n_imports = sum(map(len, graph.values()))
        print(f"{len(graph)} modules, {n_imports} imports: no cycle, no import upwards, as {MAP} says")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
