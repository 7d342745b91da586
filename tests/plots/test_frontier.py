import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

from fairjax import plots

matplotlib = pytest.importorskip("matplotlib")


LABEL, HEADING = "gap on test [0-1]", "Adult"


class Points(NamedTuple):
    """The part of `frontiers.Frontier` that is drawn."""

    test_unfairness: object
    test_accuracy: object
    on_front: object
    selected: object
    unconstrained: object
    converged: object


@pytest.fixture
def panel():
    """Four points of a front, one beaten, one not converged, one not finite."""
    return Points(
        test_unfairness=np.array([0.3, 0.0, 0.1, 0.2, 0.2, 0.15, np.nan], np.float32),
        test_accuracy=np.array([0.85, 0.7, 0.8, 0.84, 0.75, 0.6, 0.9], np.float32),
        on_front=np.array([True, True, True, True, False, False, False]),
        selected=2,
        unconstrained=0,
        converged=np.array([True, True, True, True, True, False, True]),
    )


def drawn(ax):
    """The data of each series under its name in the legend."""
    return {
        line.get_label(): np.asarray(line.get_xydata(), np.float32).tolist()
        for line in ax.get_lines()
    }


def pairs(panel, *rows):
    return [
        [panel.test_unfairness[i].item(), panel.test_accuracy[i].item()] for i in rows
    ]


def test_every_point_is_drawn_once_under_its_kind(panel):
    (ax,) = plots.frontier(panel).axes
    assert drawn(ax) == {
        "Pareto front": pairs(panel, 1, 2, 3, 0),
        "selected": pairs(panel, 2),
        "without fairness": pairs(panel, 0),
        "other settings": pairs(panel, 4),
        "not converged": pairs(panel, 5),
    }


def test_intervals_are_bars_at_their_points(panel):
    nothing = np.full(7, np.nan)
    low, high = nothing.copy(), nothing.copy()
    low[[0, 2]], high[[0, 2]] = [0.2, 0.0], [0.35, 0.25]
    (ax,) = plots.frontier(panel, limits=[(low, high)]).axes
    (bars,) = [c for c in ax.containers if c.get_label() == "interval of unfairness"]
    segments = np.concatenate([c.get_segments() for c in bars.lines[2]])
    expected = [[[0.2, 0.85], [0.35, 0.85]], [[0.0, 0.8], [0.25, 0.8]]]
    np.testing.assert_allclose(segments, expected, rtol=1e-6)
    low[2] = 0.15
    with pytest.raises(ValueError, match="enclose `test_unfairness`, but .* point 2"):
        plots.frontier(panel, limits=[(low, high)])
    with pytest.raises(ValueError, match="have as many entries as `test_unfairness`"):
        plots.frontier(panel, limits=[(low[1:], high)])


def test_numbers_stand_below_each_other_with_their_intervals(untyped):
    values, low, high = np.array([[0.2, 0.4], [0.1, np.nan], [0.3, np.nan]])
    names = ["a $x$ gap", "_other"]
    figure = plots.intervals(names, values, low, high, label="gap [0-1]", title="t")
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == names
    assert ax.get_xlabel() == "gap [0-1]"
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[0.2, 0], [0.4, 1]])
    (segments,) = (bars.get_segments() for bars in ax.collections)
    np.testing.assert_array_equal(segments, [[[0.1, 0], [0.3, 0]]])
    assert ax.get_ylim() == (1.5, -0.5)
    assert ax.get_xlim()[0] == 0
    with pytest.raises(ValueError, match="`low` must have as many entries as `names`"):
        plots.intervals(names, values, low[:1], high, label="")
    with pytest.raises(ValueError, match="`names` must hold at least one"):
        plots.intervals([], values, low, high, label="")


def test_axes_say_what_they_measure(panel):
    figure = plots.frontier(
        [panel, panel], labels=[LABEL, "other"], headings=[HEADING, ""], title="Linear"
    )
    first, second = figure.axes
    assert first.get_xlabel() == "gap on test [0-1]"
    assert second.get_xlabel() == "other"
    assert first.get_ylabel() == "test accuracy [share of correct decisions]"
    assert second.get_ylabel() == ""
    assert first.get_title(loc="left") == "Adult - 1 of 7 fits not finite"
    assert figure.get_suptitle() == "Linear"
    assert first.get_ylim() == second.get_ylim()


def test_the_legend_names_what_occurs_and_each_only_once(panel):
    quiet = panel._replace(selected=-1, converged=np.ones(7, bool))
    (legend,) = plots.frontier([quiet, quiet]).legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["Pareto front", "without fairness", "other settings"]
    (legend,) = plots.frontier([quiet, panel]).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "Pareto front",
        "selected",
        "without fairness",
        "other settings",
        "not converged",
    ]


def test_kinds_differ_without_colour(panel):
    (ax,) = plots.frontier(panel).axes
    looks = {
        (line.get_marker(), line.get_markerfacecolor() == "none", line.get_linestyle())
        for line in ax.get_lines()
    }
    assert len(looks) == 5


def test_an_unconverged_point_of_the_front_is_a_cross_not_a_dot(panel):
    (ax,) = plots.frontier(panel._replace(converged=np.arange(7) != 3)).axes
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert lines["Pareto front"].get_markevery() == [True, True, False, True]
    assert drawn(ax)["not converged"] == pairs(panel, 3)


def test_jax_arrays_are_welcome(panel):
    jax = pytest.importorskip("jax")
    arrays = Points(*jax.tree.map(jax.numpy.asarray, tuple(panel)))
    (ax,) = plots.frontier(arrays).axes
    assert drawn(ax)["selected"] == pairs(panel, 2)


def test_a_single_perfectly_fair_point_can_be_drawn(tmp_path):
    one = np.ones(1, bool)
    lone = Points(np.zeros(1), np.full(1, 0.5), one, 0, -1, one)
    plots.save(plots.frontier(lone), tmp_path / "one.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_accuracy": np.zeros(3)}, "`test_accuracy` must have as many entries"),
        ({"on_front": np.ones(2, bool)}, "`on_front` must have as many entries"),
        ({"converged": np.ones(8, bool)}, "`converged` must have as many entries"),
        ({"test_accuracy": np.full(7, np.nan)}, "none of the 7 points has a finite"),
        ({"selected": 7}, "`selected` must be the index of one of the 7 points"),
        ({"unconstrained": -2}, "`unconstrained` must be the index"),
    ],
)
def test_frontier_refuses(change, message, panel):
    with pytest.raises(ValueError, match=message):
        plots.frontier(panel._replace(**change))


def test_frontier_needs_a_panel_and_as_many_labels(panel):
    with pytest.raises(ValueError, match="`frontiers` must hold at least one"):
        plots.frontier([])
    with pytest.raises(ValueError, match="`headings` must have an entry for each"):
        plots.frontier([panel] * 3, headings=["a", "b"])


def test_a_missing_matplotlib_is_named(panel, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"fairjax\[plot\]"):
        plots.frontier(panel)


@pytest.mark.parametrize(
    ("suffix", "start"),
    [("png", b"\x89PNG"), ("PNG", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")],
)
def test_save_writes_the_format_of_the_suffix(suffix, start, panel, tmp_path):
    path = tmp_path / f"frontier.{suffix}"
    path.write_bytes(b"older")
    plots.save(plots.frontier(panel), str(path))
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_fails_half_way_leaves_the_older_one(
    panel, tmp_path, monkeypatch
):
    path = tmp_path / "frontier.png"
    path.write_bytes(b"older")
    figure = plots.frontier(panel)

    def fail(stream, **_):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(ValueError, match="cannot be written: disk full"):
        plots.save(figure, path)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("frontier", r"must end in one of .*\.png"),
        ("frontier.doc", r"must end in one of .*\.png"),
        ("nowhere/frontier.png", "Name a file in a directory"),
    ],
)
def test_save_refuses(name, message, panel, tmp_path):
    with pytest.raises(ValueError, match=message):
        plots.save(plots.frontier(panel), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_module_does_not_import_matplotlib_and_drawing_not_pyplot():
    code = (
        "import sys, types, numpy as np\n"
        "from fairjax import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "one = np.ones(1, bool)\n"
        "plots.frontier(types.SimpleNamespace(test_unfairness=one * 0.1, selected=0,\n"
        "    test_accuracy=one * 0.5, on_front=one, unconstrained=0, converged=one))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
