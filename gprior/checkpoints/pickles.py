"""A machine for pickles that knows data and nothing else.

Python's unpickler imports what a file names and calls it. This one has no way to: names are
looked up in a table of ours (`gprior.checkpoints.inert`), instructions that checkpoints do not
need are refused, and what is left are lists, dictionaries, numbers, text, bytes and inert
nodes. Every instruction reads the bytes that it says it has, makes at most one object, and is
counted, so that time and memory are bounded by the count.
"""

from __future__ import annotations

import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any

from gprior.checkpoints.inert import MEANINGS, STORAGES, Global, Node, build
from gprior.checks import InputError

__all__ = ["Budget", "check_depth", "parse"]

INSTRUCTIONS = 200_000  # networks of 1024 pixels have about 50,000
TEXT = 1 << 24  # bytes of all text; what a memo returns again costs nothing
DEPTH = 64  # of containers in containers
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*", re.ASCII)
KEYS = (str, int, bool, type(None))  # no tuple: its hash can take for ever
LARGEST = 1 << 60  # beyond it, integers can be chosen to have one hash


class Budget:
    """What a file may still spend, its nested pickles included."""

    def __init__(self) -> None:
        self.instructions, self.text = INSTRUCTIONS, TEXT


def parse(
    data: memoryview,
    start: int,
    budget: Budget,
    persistent: Callable[[Any], Any] | None = None,
    nested: Callable[[memoryview, Budget], Any] | None = None,
) -> tuple[Any, int]:
    """Return the data of one pickle, and where it ends.

    Parameters
    ----------
    data : memoryview
        Bytes; what the result has of them are views.
    start : int
        Where the pickle begins.
    budget : Budget
        Reduced by what the pickle costs.
    persistent : callable, optional
        Persistent id -> object; None refuses them.
    nested : callable, optional
        Makes a storage of the bytes that ``torch.storage._load_from_bytes`` is given; None
        refuses them.

    Raises
    ------
    ValueError
        If it is damaged, too large, or more than data.
    """
    machine = Machine(data, start, budget, persistent, nested)
    try:
        return machine.run(), machine.at
    except (IndexError, KeyError, struct.error, UnicodeError) as error:
        raise InputError(f"its pickle is damaged near byte {machine.at}") from error


class Machine:
    """The stack, the memo and the position in one pickle."""

    def __init__(
        self, data: memoryview, start: int, budget: Budget, persistent: Any, nested: Any
    ) -> None:
        self.data, self.at, self.budget = data, start, budget
        self.persistent, self.nested = persistent, nested
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Follow the instructions up to STOP; return what is on top then."""
        while (code := self.take(1)[0]) != STOP:
            self.budget.instructions -= 1
            if self.budget.instructions < 0:
                raise InputError(f"its pickle has more than {INSTRUCTIONS:,} instructions")
            if code not in BY_CODE:
                name = next((op.name for op in pickletools.opcodes if ord(op.code) == code), code)
                raise InputError(f"its pickle has the instruction {name}, which no checkpoint has")
            form, action = BY_CODE[code]
            action(self, self.number(form)) if form else action(self)
        return self.stack.pop()

    def take(self, n: int) -> memoryview:
        """Return the next n bytes."""
        if n < 0 or self.at + n > len(self.data):
            raise InputError("its pickle is cut short")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, form: str) -> Any:
        """Return the next number."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def marked(self) -> list[Any]:
        """Return what lies above the last mark, and forget the mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def line(self) -> str:
        """Return the next line, at most 256 bytes with its end."""
        found = bytes(self.data[self.at : self.at + 256]).partition(b"\n")
        if not found[1]:
            raise InputError("its pickle has a name without an end")
        self.at += len(found[0]) + 1
        return str(found[0], "ascii")

    def name(self, module: Any, name: Any) -> None:
        """Push a name, if checkpoints have it."""
        words = (module, name)
        if not all(isinstance(w, str) and len(w) < 256 and NAME.fullmatch(w) for w in words):
            raise InputError("its pickle has something else than a name where a name belongs")
        found = Global(module, name)
        if found not in MEANINGS and found not in STORAGES and found != LOAD:
            raise InputError(
                f"its pickle names {found}, which is none of the names that checkpoints need; "
                "nothing was imported or run. If you trust its author, ask for the weights as "
                ".safetensors"
            )
        self.stack.append(found)

    def call(self, function: Any, args: Any) -> None:
        """Push what a call of a known name stands for."""
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise InputError("its pickle calls something that is no name")
        if function == LOAD and self.nested and len(args) == 1 and isinstance(args[0], memoryview):
            self.stack.append(self.nested(args[0], self.budget))
        elif function in MEANINGS:
            try:
                self.stack.append(MEANINGS[function](*args))
            except TypeError as error:
                raise InputError(f"its pickle calls {function} with odd arguments") from error
        else:
            raise InputError(f"its pickle calls {function}, which is not called in checkpoints")

    def extend(self, items: list[Any]) -> None:
        """Add items to the list on top."""
        if not isinstance(self.stack[-1], list):
            raise InputError("its pickle appends to something that is no list")
        self.stack[-1].extend(items)

    def assign(self, items: list[Any]) -> None:
        """Add keys and values to the dictionary on top."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise InputError("its pickle sets items of something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, KEYS) or (isinstance(key, int) and abs(key) > LARGEST):
                raise InputError("its pickle has a key that is neither text nor a small integer")
            target[key] = value

    # The instructions, by their names in `pickletools`.

    def proto(self, version: int) -> None:
        """PROTO: the version."""
        if not 2 <= version <= 5:
            raise InputError("its pickle is of an unknown protocol")

    def frame(self, n: int) -> None:
        """FRAME: a promise of n bytes; `take` checks every one anyway."""
        if self.at + n > len(self.data):
            raise InputError("its pickle is cut short")

    def push(self, value: Any) -> None:
        """BININT, BINFLOAT: a number."""
        self.stack.append(value)

    def text(self, n: int) -> None:
        """BINUNICODE: n bytes of text."""
        self.budget.text -= n
        if self.budget.text < 0:
            raise InputError(f"its pickle has more than {TEXT:,} bytes of text")
        self.stack.append(str(self.take(n), "utf-8"))

    def put(self, index: int) -> None:
        """BINPUT, MEMOIZE: remember what is on top."""
        self.memo[index] = self.stack[-1]

    def long(self, n: int) -> None:
        """LONG1, LONG4: an integer of n bytes."""
        if not 0 <= n <= 16:
            raise InputError("its pickle has an integer of more than 16 bytes")
        self.stack.append(int.from_bytes(self.take(n), "little", signed=True))

    def tuple(self, n: int) -> None:
        """TUPLE1, TUPLE2, TUPLE3: the last n as a tuple."""
        self.stack.append(tuple([self.stack.pop() for _ in range(n)][::-1]))

    def mark(self) -> None:
        """MARK: put the stack aside."""
        if len(self.outer) > DEPTH:
            raise InputError(f"its pickle nests more than {DEPTH} marks")
        self.outer.append(self.stack)
        self.stack = []

    def stack_global(self) -> None:
        """STACK_GLOBAL: a name from the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def reduce(self) -> None:
        """REDUCE, NEWOBJ: a call, as it stands in the file."""
        args, function = self.stack.pop(), self.stack.pop()
        self.call(function, args)

    def build(self) -> None:
        """BUILD: a state for what is below it."""
        state = self.stack.pop()
        build(self.stack[-1], state)

    def persid(self) -> None:
        """BINPERSID: what lies outside the pickle."""
        if self.persistent is None:
            raise InputError("its pickle refers to data outside it, which there is not")
        self.stack.append(self.persistent(self.stack.pop()))


STOP = ord(".")
LOAD = Global("torch.storage", "_load_from_bytes")
# What is followed, by the names of `pickletools`: the form of the argument, and the action.
FOLLOWED: dict[str, tuple[str, Callable[..., object]]] = {
    "PROTO": ("<B", Machine.proto),
    "FRAME": ("<Q", Machine.frame),
    "NONE": ("", lambda m: m.stack.append(None)),
    "NEWTRUE": ("", lambda m: m.stack.append(True)),
    "NEWFALSE": ("", lambda m: m.stack.append(False)),
    "EMPTY_TUPLE": ("", lambda m: m.stack.append(())),
    "EMPTY_LIST": ("", lambda m: m.stack.append([])),
    "EMPTY_DICT": ("", lambda m: m.stack.append({})),
    "EMPTY_SET": ("", lambda m: m.stack.append([])),  # as `inert.listed`
    "BININT1": ("<B", Machine.push),
    "BININT2": ("<H", Machine.push),
    "BININT": ("<i", Machine.push),
    "BINFLOAT": (">d", Machine.push),
    "LONG1": ("<B", Machine.long),
    "LONG4": ("<i", Machine.long),
    "SHORT_BINBYTES": ("<B", lambda m, n: m.stack.append(m.take(n))),
    "BINBYTES": ("<I", lambda m, n: m.stack.append(m.take(n))),
    "BINBYTES8": ("<Q", lambda m, n: m.stack.append(m.take(n))),
    "SHORT_BINUNICODE": ("<B", Machine.text),
    "BINUNICODE": ("<I", Machine.text),
    "BINUNICODE8": ("<Q", Machine.text),
    "SHORT_BINSTRING": ("<B", Machine.text),  # of Python 2
    "BINSTRING": ("<i", Machine.text),
    "TUPLE1": ("", lambda m: m.tuple(1)),
    "TUPLE2": ("", lambda m: m.tuple(2)),
    "TUPLE3": ("", lambda m: m.tuple(3)),
    "MARK": ("", Machine.mark),
    "POP": ("", lambda m: m.stack.pop()),
    "POP_MARK": ("", Machine.marked),
    "TUPLE": ("", lambda m: m.push(tuple(m.marked()))),
    "APPEND": ("", lambda m: m.extend([m.stack.pop()])),
    "APPENDS": ("", lambda m: m.extend(m.marked())),
    "ADDITEMS": ("", lambda m: m.extend(m.marked())),
    "SETITEM": ("", lambda m: m.assign([m.stack.pop(), m.stack.pop()][::-1])),
    "SETITEMS": ("", lambda m: m.assign(m.marked())),
    "BINGET": ("<B", lambda m, index: m.stack.append(m.memo[index])),
    "LONG_BINGET": ("<I", lambda m, index: m.stack.append(m.memo[index])),
    "BINPUT": ("<B", Machine.put),
    "LONG_BINPUT": ("<I", Machine.put),
    "MEMOIZE": ("", lambda m: m.put(len(m.memo))),
    "GLOBAL": ("", lambda m: m.name(m.line(), m.line())),
    "STACK_GLOBAL": ("", Machine.stack_global),
    "REDUCE": ("", Machine.reduce),
    "NEWOBJ": ("", Machine.reduce),
    "BUILD": ("", Machine.build),
    "BINPERSID": ("", Machine.persid),
}
BY_CODE = {ord(op.code): FOLLOWED[op.name] for op in pickletools.opcodes if op.name in FOLLOWED}


def check_depth(tree: Any) -> None:
    """Refuse containers nested so deeply that no checkpoint is; each is seen once."""
    level, seen = [tree], set()
    for _ in range(DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, (list, tuple, dict, Node)) and id(item) not in seen:
                seen.add(id(item))
                if isinstance(item, Node):
                    below += [item.args, item.state]
                else:
                    below += item.values() if isinstance(item, dict) else item
        level = below
    if level:
        raise InputError(f"its pickle nests more than {DEPTH} containers")
