"""The graph of what came from what: its nodes and edges, and the walk along them. Pure.

    annotator ─► dataset version ─► job ─► model version ─► evaluation | alias | endpoint ─► usage

Kinds are words, not a closed set: whoever brings a new one (annotators) adds its neighbours and needs no change here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down"]
MAX_NODES = 500
MAX_DEPTH = 20


@dataclass(frozen=True)
class Node:
    """One thing in the graph; `ref` is what a user calls it, `note` says in a word where it stands."""

    kind: str
    id: str
    ref: str
    note: str = ""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.id}"


@dataclass(frozen=True)
class Graph:
    """Nodes and edges (origin, result) by key; `truncated` when there was more than is shown."""

    root: Node
    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]
    truncated: bool


FindNeighbours = Callable[[Node, Direction], Sequence[Node]]


def walk(root: Node, directions: Sequence[Direction], find_neighbours: FindNeighbours, depth: int = MAX_DEPTH) -> Graph:
    """Everything that is reached from a node by going only up, and by going only down; nearest first."""
    nodes: dict[str, Node] = {root.key: root}
    edges: dict[tuple[str, str], None] = {}
    truncated = False
    for direction in directions:
        seen, queue = {root.key}, deque([(root, 0)])
        while queue:
            node, level = queue.popleft()
            for other in find_neighbours(node, direction):
                if level >= depth or (other.key not in nodes and len(nodes) >= MAX_NODES):
                    truncated = True
                    continue
                nodes.setdefault(other.key, other)
                edge = (other.key, node.key) if direction == "up" else (node.key, other.key)
                edges.setdefault(edge)
                if other.key not in seen:
                    seen.add(other.key)
                    queue.append((other, level + 1))
    return Graph(root, tuple(nodes.values()), tuple(edges), truncated)
