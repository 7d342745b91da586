"""What arrays, functions and traced programs are, the same in every process.

A checkpoint is taken up again only by what these words say is the same, and processes
that work together compare them. So they hold no address, no name of a variable, and no
order of a set.
"""

import functools
import hashlib
import inspect
import re
import types
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal

_CHECKERS = ("beartype", "jaxtyping", "typeguard")


def form(leaf: Any) -> str:
    """Dtype and shape, as one word."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def is_key(leaf: Any) -> bool:
    """Whether the leaf holds PRNG keys, which NumPy cannot."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def content(leaf: Any) -> str:
    """Form and hash of an array."""
    plain = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    return f"{form(leaf)} sha256:{hashlib.sha256(plain.tobytes()).hexdigest()}"


def words(value: Any) -> str:
    """What a function or a value is, the same in every process and run of Python.

    Functions count with their code, defaults and what they close over, arrays with all
    their numbers. Not seen: what functions look up by name, such as other functions of
    their module, and the values of objects that are neither Python's nor arrays.
    """
    return _words(value, {})


def of_program(program: Any) -> str:
    """Hash of all that a traced function does.

    The same on every device. What host callbacks do is not seen.

    Args:
        program: from `jax.make_jaxpr`.
    """
    return _hashed("\n".join(_lines_of(program)))


def _words(value: Any, seen: dict[int, int]) -> str:
    """`words`; `seen` numbers the objects that were met, which may hold themselves."""
    also = functools.partial(_words, seen=seen)
    value = _unchecked(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        if value.dtype == object:
            return also(value.tolist())
        return content(value)
    if isinstance(value, types.CodeType):
        parts = [value.co_code.hex(), value.co_consts]
        parts += [value.co_names, value.co_varnames, value.co_freevars]
        return _hashed(also(parts))
    if isinstance(value, dict):
        items = [f"{also(key)}: {also(one)}" for key, one in value.items()]
        return f"{{{', '.join(items)}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(also, value)))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(also, value))}]"
    if isinstance(value, types.ModuleType):
        return value.__name__
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    if isinstance(value, type):
        return name
    if id(value) in seen:
        return f"object {seen[id(value)]}"
    if isinstance(value, functools.partial):
        seen[id(value)] = len(seen)
        bound = [also(one) for one in value.args]
        bound += [f"{name}={also(one)}" for name, one in value.keywords.items()]
        return f"{also(value.func)}({', '.join(bound)})"
    if isinstance(value, types.MethodType):
        return f"{also(value.__func__)} of {also(value.__self__)}"
    if isinstance(value, types.FunctionType):
        seen[id(value)] = len(seen)
        cells = [_content(cell) for cell in value.__closure__ or ()]
        parts = [value.__code__, value.__defaults__, value.__kwdefaults__, cells]
        return f"{name} {_hashed(also(parts))}"
    if callable(value) or type(value).__repr__ is object.__repr__:
        seen[id(value)] = len(seen)
        name = name if hasattr(value, "__qualname__") else also(type(value))
        parts = [getattr(value, "__wrapped__", None), getattr(value, "__dict__", {})]
        if isinstance(call := type(value).__call__, types.FunctionType):
            parts.append(call)
        return f"{name} {_hashed(also(parts))}"
    return _without_addresses(repr(value))


def _unchecked(value: Any) -> Any:
    """The function inside those of type checkers, whose code is full of addresses."""

    def other(own: Any) -> bool:
        module = getattr(own, "__globals__", {}).get("__name__", "")
        return module.partition(".")[0] not in _CHECKERS

    if not isinstance(value, types.FunctionType):
        return value
    return inspect.unwrap(value, stop=other)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # Not yet filled.


def _lines_of(program: Any) -> list[str]:
    """A line per operation, whose arguments are numbered as they appear."""
    jaxpr: Jaxpr = getattr(program, "jaxpr", program)
    given = [*jaxpr.constvars, *jaxpr.invars]
    numbers = {var: i for i, var in enumerate(given)}
    lines = [_forms(given), _told(getattr(program, "consts", ()))]

    def read(atoms: Sequence[Any]) -> str:
        return _told(
            [
                [str(atom.aval), atom.val]
                if isinstance(atom, Literal)
                else numbers[atom]
                for atom in atoms
            ]
        )

    for eqn in jaxpr.eqns:
        taken, made = read(eqn.invars), _forms(eqn.outvars)
        for var in eqn.outvars:
            numbers[var] = len(numbers)
        lines.append(f"{eqn.primitive} {taken} {made} {_told(eqn.params)}")
    return [*lines, read(jaxpr.outvars)]


def _forms(variables: Sequence[Any]) -> str:
    return " ".join(str(var.aval) for var in variables)


def _told(value: Any) -> str:
    """A parameter of an operation, in words."""
    if hasattr(value, "eqns"):
        return f"({'; '.join(_lines_of(value))})"
    if isinstance(value, jax.Array) or hasattr(value, "__array__"):
        return content(value)
    if isinstance(value, dict):
        return _told(sorted((str(key), item) for key, item in value.items()))
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_told, value)))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_told, value))}]"
    if callable(value):
        # Rules of derivatives and of batching: what they gave is in the program.
        return getattr(value, "__qualname__", type(value).__name__)
    return _without_addresses(repr(value))


def _without_addresses(text: str) -> str:
    """What `repr` says of an object, in any process."""
    return re.sub(r"\b0x[0-9a-f]+", "", text)


def _hashed(text: str) -> str:
    """Short enough for a sentence that says what differs."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
