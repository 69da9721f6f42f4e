"""A prefix tree of token ids: what the steps of a rollout share is in it once.

A place in the tree is a node and a depth, the number of ids from the root. When a node is split its lower
part stays the same object, so that a place is in its node or above it; ``settled`` finds where it is.
"""

from array import array
from collections.abc import Sequence
from typing import NamedTuple


class Node:
    """Ids between two branchings, ``[start, stop)`` from the root."""

    __slots__ = ("children", "ids", "parent", "start")

    def __init__(self, parent: "Node | None", start: int, ids: "array[int]") -> None:
        self.parent, self.start, self.ids = parent, start, ids
        self.children: dict[int, Node] = {}

    @property
    def stop(self) -> int:
        """One past the depth of the last id."""
        return self.start + len(self.ids)


class Place(NamedTuple):
    """``depth`` ids from the root, in the node or above it."""

    node: Node
    depth: int

    def settled(self) -> "Place":
        """The same place with the node that it is in."""
        node = self.node
        while self.depth <= node.start and node.parent is not None:
            node = node.parent
        return Place(node, self.depth)

    def ids(self) -> list[int]:
        """All ids from the root to here."""
        pieces, (node, depth) = [], self.settled()
        while node.parent is not None:
            pieces.append(node.ids[: depth - node.start])
            node, depth = node.parent, node.start
        pieces.append(node.ids[:depth])
        joined = array("I")
        for piece in reversed(pieces):
            joined.extend(piece)
        return joined.tolist()


def root() -> Node:
    """An empty tree."""
    return Node(None, 0, array("I"))


def walk(start: Place, ids: "array[int]") -> Place:
    """Where one comes by these ids, which are in the tree afterwards."""
    node, depth = start.settled()
    at = 0
    while at < len(ids):
        if depth < node.stop:
            same = _common(node.ids, depth - node.start, ids, at)
            depth, at = depth + same, at + same
            if at < len(ids) and depth < node.stop:
                node = _split(node, depth)
        elif (child := node.children.get(ids[at])) is not None:
            node = child
        elif node.children or node.parent is None:
            rest = ids[at:]
            node.children[rest[0]] = node = Node(node, depth, rest)
            return Place(node, node.stop)
        else:
            node.ids.extend(ids[at:])
            return Place(node, node.stop)
    return Place(node, depth)


def _split(node: Node, depth: int) -> Node:
    """A new node above for what lies above ``depth``."""
    cut = depth - node.start
    upper = Node(node.parent, node.start, node.ids[:cut])
    assert node.parent is not None, "the root has no ids to split"
    node.parent.children[upper.ids[0]] = upper
    upper.children[node.ids[cut]] = node
    node.parent, node.start, node.ids = upper, depth, node.ids[cut:]
    return upper


def _common(one: "array[int]", at: int, other: "array[int]", start: int) -> int:
    """How many ids are equal from two positions on."""
    low, high = 0, min(len(one) - at, len(other) - start)
    if _equal(one, at, other, start, 0, high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if _equal(one, at, other, start, low, middle):
            low = middle
        else:
            high = middle
    return low


def _equal(one: Sequence[int], at: int, other: Sequence[int], start: int, low: int, high: int) -> bool:
    return one[at + low : at + high] == other[start + low : start + high]
