"""An interpreter of pickles that can only make data.

A pickle is a program. Python's unpickler imports what it names and calls it. This interpreter
cannot: it looks names up in a table (`gprior.checkpoints.inert`), refuses instructions that
checkpoints do not need, and makes only lists, dictionaries, numbers, text, bytes and inert
objects. Each instruction is checked against the bytes that are left, makes at most one object, and
is counted; so the number of instructions bounds time and memory.

`gprior.checkpoints.containers` calls `parse` for each pickle in a file.
"""

from __future__ import annotations

import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any

from gprior.checkpoints.inert import REPLACEMENTS, STORAGES, Global, Node, build
from gprior.checks import InputError

__all__ = ["Budget", "check_depth", "parse"]

MAX_INSTRUCTIONS = 200_000  # files of networks with 1024 pixels have about 50,000
MAX_TEXT = 1 << 24  # bytes of all text; text that the memo returns again is not counted again
MAX_DEPTH = 64  # of containers in containers
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*", re.ASCII)
KEY_TYPES = (str, int, bool, type(None))  # no tuple: to compute its hash can take for ever
MAX_KEY = 1 << 60  # larger integers can be chosen so that all have the same hash


class Budget:
    """How many instructions and bytes of text a file may still have, with its nested pickles."""

    def __init__(self) -> None:
        self.instructions, self.text = MAX_INSTRUCTIONS, MAX_TEXT


def parse(
    data: memoryview,
    start: int,
    budget: Budget,
    persistent: Callable[[Any], Any] | None = None,
    nested: Callable[[memoryview, Budget], Any] | None = None,
) -> tuple[Any, int]:
    """Return the data of one pickle, and the position where the pickle ends.

    Parameters
    ----------
    data : memoryview
        Bytes of the file. Bytes in the result are views of them.
    start : int
        Where the pickle begins.
    budget : Budget
        Reduced by the instructions and the text of the pickle.
    persistent : callable, optional
        Returns the object of a persistent id. With None, persistent ids are refused.
    nested : callable, optional
        Returns the storage in the bytes that the file passes to
        ``torch.storage._load_from_bytes``. With None, such calls are refused.

    Returns
    -------
    data : object
        Lists, dictionaries, numbers, text, bytes and objects of `gprior.checkpoints.inert`.
    end : int
        Position after the last byte of the pickle.

    Raises
    ------
    InputError
        If the pickle is damaged or too large, or contains more than data.
    """
    interpreter = Interpreter(data, start, budget, persistent, nested)
    try:
        return interpreter.run(), interpreter.at
    except (IndexError, KeyError, struct.error, UnicodeError) as error:
        raise InputError(f"its pickle is damaged near byte {interpreter.at}") from error


class Interpreter:
    """Stack, memo and position in one pickle, with a method for each instruction.

    The instructions and their names are those of Python's `pickletools`.
    """

    def __init__(
        self, data: memoryview, start: int, budget: Budget, persistent: Any, nested: Any
    ) -> None:
        self.data, self.at, self.budget = data, start, budget
        self.persistent, self.nested = persistent, nested
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Execute the instructions up to STOP, and return the object on top of the stack."""
        while (code := self.take(1)[0]) != STOP:
            self.budget.instructions -= 1
            if self.budget.instructions < 0:
                raise InputError(f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")
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

    def pop_mark(self) -> list[Any]:
        """Remove the last mark and the objects above it; return the objects."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def line(self) -> str:
        """Return the next line, of at most 256 bytes with its end."""
        line, end, _ = bytes(self.data[self.at : self.at + 256]).partition(b"\n")
        if not end:
            raise InputError("its pickle has a name without an end")
        self.at += len(line) + 1
        return str(line, "ascii")

    def name(self, module: Any, name: Any) -> None:
        """Push a name if it is one that checkpoints need."""
        words = (module, name)
        if not all(isinstance(w, str) and len(w) < 256 and NAME.fullmatch(w) for w in words):
            raise InputError("its pickle has something other than a name where a name belongs")
        known = Global(module, name)
        if known not in REPLACEMENTS and known not in STORAGES and known != LOAD:
            raise InputError(
                f"its pickle names {known}, which is none of the names that checkpoints need; "
                "nothing was imported or run. If you trust its author, ask for the weights as "
                ".safetensors"
            )
        self.stack.append(known)

    def call(self, function: Any, args: Any) -> None:
        """Push the object that a call of a known name makes."""
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise InputError("its pickle calls something that is no name")
        if function == LOAD and self.nested and len(args) == 1 and isinstance(args[0], memoryview):
            self.stack.append(self.nested(args[0], self.budget))
        elif function in REPLACEMENTS:
            try:
                self.stack.append(REPLACEMENTS[function](*args))
            except TypeError as error:
                raise InputError(
                    f"its pickle calls {function} with unexpected arguments"
                ) from error
        else:
            raise InputError(f"its pickle calls {function}, which checkpoints do not call")

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
            if not isinstance(key, KEY_TYPES) or (isinstance(key, int) and abs(key) > MAX_KEY):
                raise InputError("its pickle has a key that is neither text nor a small integer")
            target[key] = value

    def proto(self, version: int) -> None:
        """PROTO: check the version of the format."""
        if not 2 <= version <= 5:
            raise InputError("its pickle is of an unknown protocol")

    def frame(self, n: int) -> None:
        """FRAME: check that n bytes follow. `take` checks each of them again."""
        if self.at + n > len(self.data):
            raise InputError("its pickle is cut short")

    def push(self, value: Any) -> None:
        """BININT, BINFLOAT and others: push a number."""
        self.stack.append(value)

    def text(self, n: int) -> None:
        """BINUNICODE and others: push n bytes of text."""
        self.budget.text -= n
        if self.budget.text < 0:
            raise InputError(f"its pickle has more than {MAX_TEXT:,} bytes of text")
        self.stack.append(str(self.take(n), "utf-8"))

    def put(self, index: int) -> None:
        """BINPUT, MEMOIZE and others: keep the object on top of the stack in the memo."""
        self.memo[index] = self.stack[-1]

    def long(self, n: int) -> None:
        """LONG1, LONG4: push an integer of n bytes."""
        if not 0 <= n <= 16:
            raise InputError("its pickle has an integer of more than 16 bytes")
        self.stack.append(int.from_bytes(self.take(n), "little", signed=True))

    def tuple(self, n: int) -> None:
        """TUPLE1, TUPLE2, TUPLE3: replace the last n objects by a tuple of them."""
        self.stack.append(tuple([self.stack.pop() for _ in range(n)][::-1]))

    def mark(self) -> None:
        """MARK: put the stack aside and begin a new one."""
        if len(self.outer) > MAX_DEPTH:
            raise InputError(f"its pickle nests more than {MAX_DEPTH} marks")
        self.outer.append(self.stack)
        self.stack = []

    def stack_global(self) -> None:
        """STACK_GLOBAL: push the name whose two strings are on the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def reduce(self) -> None:
        """REDUCE, NEWOBJ: push the object that a call in the file makes."""
        args, function = self.stack.pop(), self.stack.pop()
        self.call(function, args)

    def build(self) -> None:
        """BUILD: give the object below the top of the stack its state."""
        state = self.stack.pop()
        build(self.stack[-1], state)

    def persid(self) -> None:
        """BINPERSID: push the object that a persistent id names, which lies outside the pickle."""
        if self.persistent is None:
            raise InputError("its pickle refers to data outside it, which the file does not have")
        self.stack.append(self.persistent(self.stack.pop()))


STOP = ord(".")
LOAD = Global("torch.storage", "_load_from_bytes")
# The supported instructions: name in `pickletools` -> (format of the argument, action).
SUPPORTED: dict[str, tuple[str, Callable[..., object]]] = {
    "PROTO": ("<B", Interpreter.proto),
    "FRAME": ("<Q", Interpreter.frame),
    "NONE": ("", lambda i: i.stack.append(None)),
    "NEWTRUE": ("", lambda i: i.stack.append(True)),
    "NEWFALSE": ("", lambda i: i.stack.append(False)),
    "EMPTY_TUPLE": ("", lambda i: i.stack.append(())),
    "EMPTY_LIST": ("", lambda i: i.stack.append([])),
    "EMPTY_DICT": ("", lambda i: i.stack.append({})),
    "EMPTY_SET": ("", lambda i: i.stack.append([])),  # a list, as in `inert.make_list`
    "BININT1": ("<B", Interpreter.push),
    "BININT2": ("<H", Interpreter.push),
    "BININT": ("<i", Interpreter.push),
    "BINFLOAT": (">d", Interpreter.push),
    "LONG1": ("<B", Interpreter.long),
    "LONG4": ("<i", Interpreter.long),
    "SHORT_BINBYTES": ("<B", lambda i, n: i.stack.append(i.take(n))),
    "BINBYTES": ("<I", lambda i, n: i.stack.append(i.take(n))),
    "BINBYTES8": ("<Q", lambda i, n: i.stack.append(i.take(n))),
    "SHORT_BINUNICODE": ("<B", Interpreter.text),
    "BINUNICODE": ("<I", Interpreter.text),
    "BINUNICODE8": ("<Q", Interpreter.text),
    "SHORT_BINSTRING": ("<B", Interpreter.text),  # written by Python 2
    "BINSTRING": ("<i", Interpreter.text),
    "TUPLE1": ("", lambda i: i.tuple(1)),
    "TUPLE2": ("", lambda i: i.tuple(2)),
    "TUPLE3": ("", lambda i: i.tuple(3)),
    "MARK": ("", Interpreter.mark),
    "POP": ("", lambda i: i.stack.pop()),
    "POP_MARK": ("", Interpreter.pop_mark),
    "TUPLE": ("", lambda i: i.push(tuple(i.pop_mark()))),
    "APPEND": ("", lambda i: i.extend([i.stack.pop()])),
    "APPENDS": ("", lambda i: i.extend(i.pop_mark())),
    "ADDITEMS": ("", lambda i: i.extend(i.pop_mark())),
    "SETITEM": ("", lambda i: i.assign([i.stack.pop(), i.stack.pop()][::-1])),
    "SETITEMS": ("", lambda i: i.assign(i.pop_mark())),
    "BINGET": ("<B", lambda i, index: i.stack.append(i.memo[index])),
    "LONG_BINGET": ("<I", lambda i, index: i.stack.append(i.memo[index])),
    "BINPUT": ("<B", Interpreter.put),
    "LONG_BINPUT": ("<I", Interpreter.put),
    "MEMOIZE": ("", lambda i: i.put(len(i.memo))),
    "GLOBAL": ("", lambda i: i.name(i.line(), i.line())),
    "STACK_GLOBAL": ("", Interpreter.stack_global),
    "REDUCE": ("", Interpreter.reduce),
    "NEWOBJ": ("", Interpreter.reduce),
    "BUILD": ("", Interpreter.build),
    "BINPERSID": ("", Interpreter.persid),
}
BY_CODE = {ord(op.code): SUPPORTED[op.name] for op in pickletools.opcodes if op.name in SUPPORTED}


def check_depth(tree: Any) -> None:
    """Refuse data with more than `MAX_DEPTH` levels of containers; each container counts once."""
    level, seen = [tree], set()
    for _ in range(MAX_DEPTH):
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
        raise InputError(f"its pickle nests more than {MAX_DEPTH} containers")
