"""Builds the tree of a trace from its spans and draws it as a waterfall. Pure: no clock, no I/O."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_BAR_WIDTH = 30
_MAX_NAME_WIDTH = 60


@dataclass(frozen=True, slots=True)
class Span:
    span_id: str
    parent_id: str | None
    service: str
    name: str
    start_ns: int
    end_ns: int
    kind: str
    status: str
    attributes: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    links: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Span:
        return cls(**{name: fields[name] for name in cls.__slots__})

    @property
    def duration_ms(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6


@dataclass(frozen=True, slots=True)
class Node:
    span: Span
    children: tuple[Node, ...]

    def walk(self) -> Iterator[Span]:
        yield self.span
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Tree:
    roots: tuple[Node, ...]
    """One, when the trace is whole."""
    orphans: tuple[Node, ...]
    """Subtrees whose parent has not arrived."""

    def walk(self) -> Iterator[Span]:
        for node in (*self.roots, *self.orphans):
            yield from node.walk()

    @property
    def problems(self) -> list[str]:
        """What keeps this from being one tree, in words; empty when nothing does."""
        found = []
        if len(self.roots) != 1:
            found.append("no root" if not self.roots else f"{len(self.roots)} roots instead of one")
        if self.orphans:
            names = ", ".join(f"{node.span.service} {node.span.name!r}" for node in self.orphans)
            found.append(f"{len(self.orphans)} without their parent: {names}")
        return found


def build(spans: Iterable[Span]) -> Tree:
    """Order spans below their parents, siblings by start."""
    ordered = sorted(spans, key=lambda span: (span.start_ns, -span.end_ns))
    known = {span.span_id for span in ordered}
    children: dict[str, list[Span]] = defaultdict(list)
    for span in ordered:
        if span.parent_id in known:
            children[span.parent_id].append(span)

    def node(span: Span) -> Node:
        return Node(span, tuple(node(child) for child in children[span.span_id]))

    return Tree(
        roots=tuple(node(span) for span in ordered if span.parent_id is None),
        orphans=tuple(node(span) for span in ordered if span.parent_id is not None and span.parent_id not in known),
    )


def draw(trace_id: str, tree: Tree, *, attributes: bool = False) -> list[str]:
    """Return the lines of the waterfall: service, span, when, and for how long.

    `attributes` adds those of each span and its events, indented below it.
    """
    spans = list(tree.walk())
    if not spans:
        return [f"trace {trace_id}: no spans"]
    start_ns, end_ns = min(span.start_ns for span in spans), max(span.end_ns for span in spans)
    services = len({span.service for span in spans})
    rows = [*_rows(tree.roots), *((f"(parent missing) {name}", span) for name, span in _rows(tree.orphans))]
    service_width = max(len(span.service) for span in spans)
    name_width = min(_MAX_NAME_WIDTH, max(len(name) for name, _ in rows))
    size = f"{_count(len(spans), 'span')}, {_count(services, 'service')}"
    lines = [f"trace {trace_id}: {(end_ns - start_ns) / 1e6:.1f} ms, {size}"]
    for name, span in rows:
        bar = _bar(span, start_ns, end_ns)
        row = f"{span.service:{service_width}}  {name[:name_width]:{name_width}}  {bar} {span.duration_ms:8.1f} ms"
        lines.append(f"{row}{_outcome(span)}")
        if attributes:
            lines += [f"{' ' * service_width}      {detail}" for detail in _details(span)]
    return [*lines, *(f"! {problem}" for problem in tree.problems)]


def _rows(nodes: Sequence[Node], indent: str = "", *, nested: bool = False) -> Iterator[tuple[str, Span]]:
    for position, node in enumerate(nodes):
        is_last = position == len(nodes) - 1
        branch = ("└ " if is_last else "├ ") if nested else ""
        yield f"{indent}{branch}{node.span.name}", node.span
        below = indent + (("  " if is_last else "│ ") if nested else "")
        yield from _rows(node.children, below, nested=True)


def _bar(span: Span, start_ns: int, end_ns: int) -> str:
    """At least one block, so that the fastest span is seen as well."""
    scale = _BAR_WIDTH / max(end_ns - start_ns, 1)
    first = min(int((span.start_ns - start_ns) * scale), _BAR_WIDTH - 1)
    length = max(1, min(round((span.end_ns - span.start_ns) * scale), _BAR_WIDTH - first))
    return f"{' ' * first}{'█' * length}".ljust(_BAR_WIDTH)


def _outcome(span: Span) -> str:
    status = span.attributes.get("http.response.status_code")
    words = [str(status)] if status is not None else []
    if span.status == "error":
        words.append(str(span.attributes.get("error.type", "error")))
    return f"  {' '.join(dict.fromkeys(words))}" if words else ""


def _details(span: Span) -> Iterator[str]:
    for name, value in sorted(span.attributes.items()):
        yield f"{name} = {value}"
    for event in span.events:
        fields = " ".join(f"{name}={value}" for name, value in sorted(event["attributes"].items()))
        yield f"+{(event['time_ns'] - span.start_ns) / 1e6:.1f} ms {event['name']} {fields}".rstrip()
    for link in span.links:
        yield f"-> trace {link['trace_id']} {' '.join(map(str, link['attributes'].values()))}".rstrip()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
