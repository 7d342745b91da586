import numpy as np
import pytest

from fairjax import plots

pytest.importorskip("matplotlib")


def lines(ax):
    return [np.asarray(line.get_xydata()).tolist() for line in ax.get_lines()]


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def test_a_distribution_is_the_share_at_or_below():
    panel = plots.Scores(
        np.array([3.0, 1.0, 1.0, 7.0, 9.0]), np.array([0, 0, 0, 1, 1]), label="x [m]"
    )
    figure = plots.distributions(panel, group_names=("a", "b"), threshold=2.0)
    (ax,) = figure.axes
    first, second, limit = ax.get_lines()
    steps = [[1, 0], [1, 2 / 3], [3, 1]]
    np.testing.assert_allclose(first.get_xydata(), steps, rtol=1e-12)
    np.testing.assert_allclose(second.get_xydata(), [[7, 0], [7, 0.5], [9, 1]])
    assert first.get_drawstyle() == "steps-post"
    assert np.asarray(limit.get_xdata()).tolist() == [2, 2]
    assert ax.get_xlabel() == "x [m]"
    assert ax.get_ylabel() == "share of the group at or below [0-1]"
    assert legend(figure) == ["a", "b", "threshold"]


def test_weights_count_as_repetitions():
    scores, groups = np.array([1.0, 2.0, 3.0, 5.0]), np.array([0, 0, 1, 1])
    weights = np.array([3, 1, 1, 0])
    heavy = plots.Scores(scores, groups, weights)
    plain = plots.Scores(np.repeat(scores, weights), np.repeat(groups, weights))
    drawn = [
        lines(plots.distributions(panel, group_names="ab").axes[0])
        for panel in (heavy, plain)
    ]
    assert drawn[0] == drawn[1]


def test_many_points_are_thinned_without_moving_the_curve(rng):
    scores = rng.normal(size=20_000)
    groups = np.zeros(scores.size, int)
    figure = plots.distributions(plots.Scores(scores, groups), group_names=("all",))
    ((x, y),) = (np.transpose(line) for line in lines(figure.axes[0]))
    assert x.size <= 1001
    exact = np.searchsorted(np.sort(scores), x, side="right") / scores.size
    np.testing.assert_allclose(y[1:], exact[1:], rtol=1e-12)
    assert (np.diff(y) <= 2 / 1000).all()


def test_a_repair_shows_which_score_became_which():
    before, after = np.array([4.0, 0.0, 1.0, 2.0]), np.array([3.0, 1.0, 2.0, 2.5])
    figure = plots.repair(
        before,
        after,
        np.array([0, 0, 1, 1]),
        group_names=("a", "b"),
        labels=("old [m]", "new [m]"),
        title="t",
    )
    left, middle, right = figure.axes
    assert lines(right) == [[[0, 0], [4, 4]], [[0, 1], [4, 3]], [[1, 2], [2, 2.5]]]
    assert left.get_xlim() == middle.get_xlim()
    assert [ax.get_xlabel() for ax in figure.axes] == ["old [m]", "new [m]", "old [m]"]
    assert right.get_ylabel() == "new [m]"
    assert legend(figure) == ["a", "b", "no change"]


def test_groups_differ_without_colour_and_the_smallest_are_left_out(rng):
    groups = np.repeat(np.arange(10), np.r_[2, 3, np.full(8, 20)])
    names = [f"_${g}" for g in range(10)]
    panel = plots.Scores(rng.normal(size=groups.size), groups)
    figure = plots.distributions([panel, panel], group_names=names)
    drawn = figure.axes[0].get_lines()
    assert len({line.get_marker() for line in drawn}) == len(drawn) == 8
    assert legend(figure) == [*names[2:], "(2 smaller groups are not drawn)"]
    figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ([], "at least one `Scores`"),
        ([plots.Scores(np.zeros(0), np.zeros(0, int))], "at least one row"),
        ([plots.Scores(np.zeros(2), np.zeros(3, int))], "as many entries as `scores`"),
        ([plots.Scores(np.zeros(2), np.full(2, 5))], r"codes in \[0, 2\)"),
        ([plots.Scores(np.array([np.nan]), np.zeros(1, int))], "must be finite"),
        (
            [plots.Scores(np.zeros(1), np.zeros(1, int), np.zeros(1))],
            "`weights` must have a positive entry",
        ),
    ],
)
def test_distributions_refuse(panels, message):
    with pytest.raises(ValueError, match=message):
        plots.distributions(panels, group_names=("a", "b"))
