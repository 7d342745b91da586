"""What a compiled program sends between devices, read from its text."""

import re
from collections import Counter
from math import prod

import jax

KINDS = [
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
]
BITS = {"pred": 8, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s64": 64, "f64": 64}


def compiled_text(function, *arguments) -> str:
    """The text of the program that JAX compiles for a function."""
    return str(jax.jit(function).lower(*arguments).compile().as_text())


def sent(text: str) -> Counter[str]:
    """Bytes of results by kind of collective, those in a loop as often as it turns.

    A loop without a known number of turns counts once; of branches, the one that a
    constant chooses, or all.

    Args:
        text: of `jax.jit(...).lower(...).compile().as_text()`.
    """
    lines, entry = {}, ""
    name = ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line)
        if head and not line.startswith(" "):
            name = head[2]
            lines[name] = []
            entry = name if head[1] else entry
        elif name:
            lines[name].append(line)

    def of(name: str) -> Counter[str]:
        found: Counter[str] = Counter()
        numbers = (
            re.search(r"%?([\w.-]+) = s32\[\] constant\((\d+)\)", line)
            for line in lines[name]
        )
        constants = {number[1]: int(number[2]) for number in numbers if number}
        for line in lines[name]:
            made = re.search(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(", line)
            if made:
                found[made[2]] += size(made[1])
            turns = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            inner = re.findall(
                r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)",
                line,
            )
            branches = re.search(r"branch_computations=\{(.*?)\}", line)
            if branches:
                taken = [name.strip(" %") for name in branches[1].split(",")]
                index = re.search(r" conditional\(%?([\w.-]+)", line)
                known = index and constants.get(index[1])
                inner += taken if known is None else [taken[min(known, len(taken) - 1)]]
            for called in inner:
                for kind, count in of(called).items():
                    found[kind] += count * (int(turns[1]) if turns else 1)
        return found

    return of(entry)


def largest(text: str) -> int:
    """Bytes of the largest array that any collective makes."""
    made = re.findall(rf"= (.*?) (?:{'|'.join(KINDS)})(?:-start)?\(", text)
    return max((size(a) for line in made for a in arrays(line)), default=0)


def arrays(shapes: str) -> list[str]:
    """The arrays of a shape, which may be a tuple."""
    return re.findall(r"\w+\[[\d,]*\]", shapes)


def size(shapes: str) -> int:
    """Bytes of an array or of a tuple of arrays."""
    total = 0
    for kind, axes in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
        total += BITS.get(kind, 32) // 8 * prod(int(a) for a in axes.split(",") if a)
    return total
