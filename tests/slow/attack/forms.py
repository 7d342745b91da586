"""Hostile arguments for every public function, and the oracle that judges the answer.

A `Problem` holds one array for each argument word, so that one drawn example serves all
functions of a family. Either all of it is sound, and every function must answer: the
annotated shapes, finite, inputs as they were. Or one word is spoilt, and every function
that reads the word must say so: a `ValueError` with a name in backticks.

Each shape and dtype compiles anew, so they come from the few `FORMS`; values, weights,
groups and containers vary freely.
"""

import contextlib
import inspect
import re
from typing import Any, NamedTuple, get_args, get_type_hints

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from hypothesis import strategies as st


class Form(NamedTuple):
    n: int
    n_groups: int
    dtype: Any = np.float32
    x64: bool = False


# In the default profile; the nightly one adds the others.
FORMS = [
    Form(1, 1),
    Form(2, 3, np.float16),
    Form(7, 2),
    Form(24, 3, np.float64, x64=True),
]
MORE_FORMS = [
    Form(24, 2, np.float64),
    Form(7, 3, ml_dtypes.bfloat16),
    Form(7, 2, np.int32),
    Form(24, 3, np.int64, x64=True),
    Form(7, 1, np.int8),
    Form(2, 2, np.float16, x64=True),
    Form(24, 2, bool),
]
SHAPES = ["normal", "ties", "constant", "zero", "wide", "tiny", "huge", "far", "any"]
CONTAINERS = ["numpy", "readonly", "strided", "backwards", "jax", "list", "series"]
CODES = [np.int8, np.uint8, np.int16, np.int32, np.int64]
REAL = {"nan": np.nan, "inf": -np.inf, "wide": 1e300}
# How each word is spoilt.
SPOILS = {
    "scores": ("nan", "inf", "wide", "long"),
    "values": ("nan", "inf", "wide", "long"),
    "weights": ("nan", "inf", "negative", "zero", "wide", "long"),
    "groups": ("high", "low", "real", "long", "square"),
    "decisions": ("two", "nan", "long"),
    "labels": ("two", "nan", "long"),
}
SPOILS_OF_MEMBERSHIPS = {
    "memberships": ("nan", "inf", "negative", "double", "narrow", "long"),
    "weights": SPOILS["weights"],
    "labels": SPOILS["labels"],
}


class Problem(NamedTuple):
    form: Form
    words: dict[str, Any]
    container: str
    spoilt: tuple[str, str] | None


def in_precision(form):
    return jax.enable_x64(True) if form.x64 else contextlib.nullcontext()


def is_real(dtype):
    return np.dtype(dtype).kind not in "biu"


def largest(form, root=1):
    """The number up to which sums of powers `root` of all samples can be held."""
    if np.dtype(form.dtype) == bool:
        return 1
    if not is_real(form.dtype):
        return min(int(np.iinfo(form.dtype).max), 2**30) ** (1 / root)
    dtype = np.float32 if form.dtype == np.float64 and not form.x64 else form.dtype
    return float(jnp.finfo(dtype).max) ** (1 / root) / 64


def numbers(shape, rng, size, top, dtype):
    """Values of one hostile shape within [-top, top]."""
    normal = rng.normal(size=size)
    exponents = rng.uniform(-1, 1, size=size)
    made = {
        "normal": normal,
        "ties": np.round(normal),
        "constant": np.full(size, normal.flat[0]),
        "zero": normal * 0,
        "wide": np.sign(normal) * 10.0 ** (30 * exponents),
        "tiny": normal * 1e-39,
        "huge": normal / 4 * top,
        "far": 1e4 + normal,
    }[shape]
    made = np.clip(made, -top, top)
    return np.round(made).astype(dtype) if not is_real(dtype) else made.astype(dtype)


def spoil(array, kind, rng, n_groups):
    """One entry of the array made bad; a list where a dtype could not hold it."""
    at = rng.integers(len(array))
    if kind == "long":
        return np.concatenate([array, array[:1]])
    if kind == "square":
        return np.repeat(np.asarray(array)[:, None], n_groups + 1, axis=1)
    if kind == "real":
        return np.asarray(array).astype(np.float32)
    if kind == "narrow":
        return np.asarray(array)[:, :-1]
    if kind == "double":
        return np.asarray(array) * 2
    if kind == "zero":
        return np.zeros(len(array), array.dtype)
    if kind in ("two", "high", "low"):
        array = np.asarray(array).astype(np.int32)
        array[at] = {"two": 2, "high": n_groups, "low": -1}[kind]
        return array
    array = np.asarray(array)
    double = kind == "wide" or array.dtype == np.float64
    array = array.astype(np.float64 if double else np.float32)
    array[at] = REAL.get(kind, -1.0)
    return array


def contained(array, container):
    """The same values as a caller may hold them."""
    array = np.asarray(array)
    if container == "jax":
        return jnp.asarray(array)
    if container == "list":
        return array.tolist()
    if container == "series" and array.ndim == 1 and array.dtype.kind != "V":
        import pandas

        return pandas.Series(array, index=np.arange(len(array))[::-1])
    if container == "strided":
        array = np.repeat(array, 2, axis=0)[::2]
    if container == "backwards":
        array = array[::-1].copy()[::-1]
    if container in ("readonly", "strided"):
        array.flags.writeable = False
    return array


@st.composite
def problems(draw, forms, *, root=1, spoils=SPOILS, containers=CONTAINERS):
    """One array per argument word, at most one of them spoilt."""
    form = draw(st.sampled_from(forms))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, top = form.n, largest(form, root)
    words: dict[str, Any] = {}
    shape = draw(st.sampled_from(SHAPES))
    for word, size in [
        ("scores", n),
        ("values", n),
        ("attribute", n),
        ("z", (n, 2)),
        ("features", (n, 2)),
        ("x", (n, 2)),
        ("y", (n, 2)),
    ]:
        if shape != "any":
            words[word] = numbers(shape, rng, size, top, form.dtype)
        elif word == "scores":
            words[word] = draw(arbitrary(n, top, form.dtype))
        else:
            words[word] = numbers("normal", rng, size, top, form.dtype)
    codes = draw(st.sampled_from(CODES))
    one_group = draw(st.booleans())
    groups = rng.integers(form.n_groups, size=n)
    words["groups"] = (groups * 0 if one_group else groups).astype(codes)
    binary = draw(st.sampled_from([bool, codes, np.float32]))
    words["labels"] = rng.integers(2, size=n).astype(binary)
    words["decisions"] = rng.integers(2, size=n).astype(binary)
    words["strata"] = rng.integers(-1, 3, size=n).astype(
        np.int64 if codes == np.uint8 else codes
    )
    words["weights"] = draw(weights(n, rng, form.dtype))
    spread = draw(st.sampled_from([0.0, 0.01, 1.0]))
    words["memberships"] = memberships(n, form.n_groups, rng, spread, form.dtype)
    container = draw(st.sampled_from(containers))
    spoilt = None
    if draw(st.integers(0, 2)) == 0:
        choices = [(word, kind) for word, kinds in spoils.items() for kind in kinds]
        spoilt = word, kind = draw(st.sampled_from(choices))
        given = words[word]
        given = np.ones(n, np.float32) if given is None else given
        words[word] = spoil(given, kind, rng, form.n_groups)
        if kind == "wide" and (form.x64 or container == "jax"):
            words[word], spoilt = given, None
    with in_precision(form):
        words = {
            word: None if array is None else contained(array, container)
            for word, array in words.items()
        }
    return Problem(form, words, container, spoilt)


def memberships(n, n_groups, rng, spread, dtype):
    """Probabilities of each group, by turns sure, nearly sure and unsure."""
    if spread == 0.0:
        sure = np.eye(n_groups)[rng.integers(n_groups, size=n)]
        return sure.astype(dtype)
    # In 256ths, which every dtype holds, and no product of which leaves its range.
    counts = [rng.multinomial(256, rng.dirichlet(np.full(n_groups, spread)))
              for _ in range(n)]  # fmt: skip
    likely = np.array(counts) / 256
    return likely.astype(dtype if is_real(dtype) else np.float32)


def arbitrary(n, top, dtype):
    """Anything the dtype holds: subnormals, both zeros, integers, halves."""
    if np.dtype(dtype) == bool:
        one = st.booleans()
    elif not is_real(dtype):
        one = st.integers(-int(top), int(top))
    else:
        width = 16 if np.dtype(dtype).itemsize == 2 else 32
        held = np.float16 if width == 16 else np.float32
        bound = float(held(min(top / 2, 6e4 if width == 16 else 1e38)))
        one = st.floats(-bound, bound, width=width)
    return st.lists(one, min_size=n, max_size=n).map(
        lambda v: np.array(v).astype(dtype)
    )


@st.composite
def weights(draw, n, rng, dtype):
    """Sound weights: at least one is positive."""
    kind = draw(
        st.sampled_from(
            ["none", "ones", "mask", "single", "drawn", "wide", "huge", "tiny", "count"]
        )
    )
    if kind == "none":
        return None
    # Those of narrow scores may be wider than these.
    real = draw(st.sampled_from([dtype, np.float32])) if is_real(dtype) else np.float32
    held = np.float32 if np.dtype(real).itemsize > 4 else real
    top, low = float(jnp.finfo(held).max), float(jnp.finfo(held).tiny)
    if kind == "mask":
        mask = rng.random(n) < 0.5
        mask[rng.integers(n)] = True
        return mask
    if kind == "count":
        return rng.integers(1, 100, size=n).astype(np.int64)
    made = {
        "ones": np.ones(n),
        "single": np.eye(n)[rng.integers(n)],
        "drawn": rng.uniform(0.1, 2, size=n),
        "wide": np.exp(rng.uniform(np.log(low), np.log(top) - 0.1, size=n)),
        "huge": np.full(n, top / 2),
        "tiny": np.full(n, low * 2),
    }[kind]
    return made.astype(real)


def bits(value):
    """What an argument holds, to be compared after the call."""
    if isinstance(value, list):
        return repr(value)
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, np.ndarray | jax.Array) and value.dtype != object:
        if isinstance(value, jax.Array) and jnp.issubdtype(
            value.dtype, jax.dtypes.prng_key
        ):
            return None
        return np.asarray(value).tobytes()
    return None


class Refused(NamedTuple):
    message: str


def call(function, **given) -> Any:
    """The answer, or the refusal; anything else is a failure of the library."""
    before = {word: bits(value) for word, value in given.items()}
    try:
        answer = function(**given)
    except ValueError as error:
        message = str(error)
        assert re.search(r"`\w+`", message), message
        answer = Refused(message)
    after = {word: bits(value) for word, value in given.items()}
    assert before == after, f"{function.__name__} changed an argument"
    return answer


def judge(function, answer, sizes=None, *, finite=True):
    """A sound problem was answered: annotated shapes, and every number finite."""
    name = function.__name__
    assert not isinstance(answer, Refused), f"{name} refused: {answer.message}"
    annotation = get_type_hints(function, include_extras=True).get("return")
    assert fits(answer, annotation, sizes or {}), (name, answer, annotation)
    for leaf in jax.tree.leaves(answer):
        if finite and jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating):
            assert np.isfinite(np.asarray(leaf, float)).all(), (name, answer)


def fits(answer, annotation, sizes):
    """Whether kinds and sizes are the annotated ones; unknown sizes may be any."""
    if annotation is None or annotation is Any:
        return True
    if hasattr(annotation, "dim_str"):
        shape, dims = np.shape(answer), annotation.dim_str.split()
        if any(d.startswith(("*", "...")) for d in dims):
            return True
        dtype = jnp.asarray(answer).dtype
        kinds = {"Float": jnp.floating, "Bool": jnp.bool_, "Int": jnp.integer}
        kind = kinds.get(annotation.__name__.split("[")[0], jnp.generic)
        return (
            jnp.issubdtype(dtype, kind)
            and len(dims) == len(shape)
            and all(
                int(d) == k if d.isdigit() else sizes.get(d, k) == k
                for d, k in zip(dims, shape, strict=True)
            )
        )
    if get_args(annotation) and not isinstance(annotation, type):
        parts = get_args(annotation)
        if getattr(annotation, "__origin__", None) is tuple:
            if parts[-1] is Ellipsis:
                return all(fits(a, parts[0], sizes) for a in answer)
            return all(fits(a, p, sizes) for a, p in zip(answer, parts, strict=True))
        if getattr(annotation, "__origin__", None) is None:
            return any(fits(answer, part, sizes) for part in parts)
        return True
    if hasattr(annotation, "_fields"):
        if not isinstance(answer, annotation):
            return False
        hints = get_type_hints(annotation, include_extras=True)
        return all(
            fits(getattr(answer, f), hints[f], sizes) for f in annotation._fields
        )
    return isinstance(answer, annotation) if isinstance(annotation, type) else True


def arguments(function, known):
    """Arguments by name; those that are annotated as arrays of JAX become such."""
    hints = get_type_hints(function, include_extras=True)
    given = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in known:
            hint = str(hints[name])
            only_jax = "Array" in hint and "ndarray" not in hint
            given[name] = as_jax(known[name], hint) if only_jax else known[name]
        else:
            required = parameter.default is inspect.Parameter.empty
            assert not required, f"{function.__name__} needs a word: {name}"
    return given


def as_jax(value, hint):
    if value is None or callable(value) or isinstance(value, jax.Array):
        return value
    array = np.asarray(value)
    if "Float[" in hint and "Real[" not in hint and array.dtype.kind in "biu":
        array = array.astype(np.float32)
    with np.errstate(over="ignore"):
        return jnp.asarray(array)
