"""The statistics against published and hand-computed values; and how often the test gives a false alarm."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lth import stats
from lth.errors import InputError

DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
"""Crossed minus self-fertilised maize, in eighths of an inch (Fisher 1935, The Design of Experiments, section 21)."""


def test_the_sign_flip_test_gives_fishers_count():
    assert stats.sign_flip_test(DARWIN) == 1726 / 2**15


@settings(max_examples=50)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9), st.booleans())
def test_the_sign_flip_test_counts_every_flip_ties_included(differences, greater):
    sums = flips(len(differences)) @ differences
    share = np.mean(sums >= sum(differences) if greater else np.abs(sums) >= abs(sum(differences)))
    assert stats.sign_flip_test(differences, greater) == share
    in_spite_of_rounding = np.array(differences) * 0.1 + 0.0
    assert stats.sign_flip_test(in_spite_of_rounding, greater) == share


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from([0, 1, -1, 2, 3, 10**5, -(10**5), 10**10, -(10**10)]), min_size=1, max_size=9),
    st.booleans(),
)
def test_the_sign_flip_test_is_exact_whatever_the_sizes(differences, greater):
    sums = [sum(flipped) for flipped in itertools.product(*((d, -d) for d in differences))]
    reached = [s >= sums[0] if greater else abs(s) >= abs(sums[0]) for s in sums]
    assert stats.sign_flip_test(differences, greater) == np.mean(reached)


@pytest.mark.parametrize("large", [1e10, 1e10 / 3, 1e17, 1e200])
def test_one_large_difference_hides_no_others(large):
    for others in ([1.0] * 5, [0.1, 0.2, 0.3, 0.4, 0.5]):
        assert stats.sign_flip_test([large, *others]) == stats.sign_flip_test([-large, *np.negative(others)]) == 2 / 64
        assert stats.sign_flip_test([large, *others], greater=True) == 1 / 64
    # 0.1 + 0.2 - 0.3 is 0 in spite of rounding: five of the eight flips of these three keep the sum, or raise it.
    assert stats.sign_flip_test([large, 0.1, 0.2, -0.3]) == 2 * 5 / 16
    assert stats.sign_flip_test([large, *np.ones(40)]) == 1 / 100_001  # drawn


def test_few_pairs_cannot_be_significant():
    for pairs, least in ((1, 1.0), (2, 0.5), (3, 0.25), (5, 0.0625), (6, 0.03125)):
        assert stats.sign_flip_test(np.arange(1.0, pairs + 1)) == stats.smallest_p(pairs) == least
    assert stats.sign_flip_test([]) == stats.sign_flip_test([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("lost", [np.nan, np.inf])
@pytest.mark.parametrize("pairs", [3, 50])
def test_a_lost_run_is_no_difference(lost, pairs):
    with pytest.raises(InputError, match="one of the runs was lost"):
        stats.sign_flip_test([lost, *np.ones(pairs)])


def test_many_pairs_are_drawn_and_repeat():
    from scipy import stats as scipy_stats

    differences = np.random.default_rng(1).normal(0.2, 1.0, 50)
    p = stats.sign_flip_test(differences)
    assert p == stats.sign_flip_test(differences)
    assert p == pytest.approx(scipy_stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert stats.sign_flip_test(np.ones(50)) == stats.smallest_p(50) == 1 / 100_001


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_at_most_five_in_a_hundred_null_data_sets_are_called_different(seeds):
    """Five conditions, all ten pairs compared: a data set is called different if any pair is. Errors are far from normal."""
    rng = np.random.default_rng(seeds)
    sets, first, second = 2000, *np.triu_indices(5, 1)
    runs = rng.normal(size=(sets, seeds, 1)) + rng.standard_t(2, (sets, seeds, 5))
    alone = called = 0
    for differences in (runs[:, :, first] - runs[:, :, second]).transpose(0, 2, 1):
        alone += stats.sign_flip_test(differences[0]) <= stats.LEVEL
        called += min(stats.max_t_test(differences.T)) <= stats.LEVEL
    error = 2.6 * np.sqrt(0.05 * 0.95 / sets)  # one time in 200 by chance; the seed is fixed
    assert called / sets <= 0.05 + error
    assert alone / sets <= 0.05 + error
    if seeds < 6:
        assert alone == called == 0
    if seeds >= 10:
        assert alone / sets > 0.03  # the test is not idle


def test_percentile_intervals_would_give_false_alarms():
    """Why they do not decide: how many 95 % intervals of the mean difference of 3 and 10 null pairs leave out zero."""
    rng, false = np.random.default_rng(0), {}
    for seeds in (3, 10):
        bounds = [
            stats.interval(stats.mean, [rng.normal(size=seeds)], rng=rng, resamples=1000)  # one task
            for _ in range(1000)
        ]
        false[seeds] = np.mean([low > 0 or high < 0 for low, high in bounds])
    assert false[3] == pytest.approx(0.26, abs=0.04)
    assert false[10] == pytest.approx(0.10, abs=0.04)


def test_aggregates_by_hand():
    two = [np.array([0.0, 1.0, 2.0, 9.0]), np.array([4.0, 6.0])]
    assert stats.iqm([two[0]]) == 1.5
    assert stats.iqm(two) == np.mean([1, 2, 4, 6])  # six runs together, one off each end
    assert stats.mean(two) == stats.median(two) == (3 + 5) / 2
    assert stats.median([*two, np.array([100.0])]) == 5
    assert stats.mean([*two, np.array([100.0])]) == 36
    assert stats.optimality_gap(two) == (0.25 + 0) / 2
    assert stats.profile(two, [0.0, 1.5, 4.0]).tolist() == [0.875, 0.75, 0.375]
    assert stats.profile(two, [0.0, 9.0]).tolist() == [0.875, 0.0]  # above, not at


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=7),
    st.lists(st.integers(0, 5), min_size=1, max_size=7),
)
def test_probability_of_improvement_is_mann_whitneys(mine, theirs):
    from scipy import stats as scipy_stats

    found = stats.probability_of_improvement([np.array(mine)], [np.array(theirs)])
    u = scipy_stats.mannwhitneyu(mine, theirs).statistic if len({*mine, *theirs}) > 1 else len(mine) * len(theirs) / 2
    assert found == pytest.approx(u / (len(mine) * len(theirs)))
    assert stats.probability_of_improvement([np.array(theirs)], [np.array(mine)]) == pytest.approx(1 - found)


def test_one_task_is_resampled_over_its_runs():
    """Its interval is that of SciPy's bootstrap of the one sample, and as wide as its runs are spread."""
    from scipy import stats as scipy_stats

    runs = np.array([0.1, 0.4, 0.5, 0.9, 1.3])
    low, high = stats.interval(stats.mean, [runs], rng=np.random.default_rng(0), resamples=20_000)
    theirs = scipy_stats.bootstrap(
        (runs,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx(theirs, abs=0.02)
    assert low < runs.mean() < high


def test_runs_are_never_drawn_across_tasks():
    apart = [np.array([0.0, 0.0, 0.0]), np.array([10.0, 10.0])]
    for statistic in (stats.mean, stats.median, stats.iqm):
        assert stats.interval(statistic, apart, rng=np.random.default_rng(0)) == (statistic(apart),) * 2


def test_intervals_repeat_and_one_run_has_none():
    runs = [np.array([1.0, 2.0, 4.0])]
    first, second = (stats.interval(stats.iqm, runs, rng=np.random.default_rng(7)) for _ in range(2))
    assert first == second
    assert np.isnan(stats.interval(stats.iqm, [np.array([1.0])], rng=np.random.default_rng(0))).all()
    # The recipe, which another program can follow: indices (resamples, runs), percentiles 2.5 and 97.5.
    indices = np.random.default_rng(7).integers(0, 3, (2000, 3))
    assert first == tuple(np.percentile(runs[0][indices].mean(axis=1), [2.5, 97.5]))


def test_curves_draw_whole_runs():
    runs = np.array([[0.0, 1.0, 2.0], [0.0, 10.0, 20.0]])  # (times, runs): the second is ten times the first
    low, high = stats.interval(stats.iqm, [runs], rng=np.random.default_rng(0))
    assert low.shape == high.shape == (2,)
    assert low[1] == pytest.approx(10 * low[0])
    assert high[1] == pytest.approx(10 * high[0])


def test_profiles_have_bands():
    runs = [np.array([0.2, 0.6, 0.9])]
    low, high = stats.interval(lambda s: stats.profile(s, [0.0, 0.5, 1.0]), runs, rng=np.random.default_rng(0))
    assert (low[0], high[0], low[2], high[2]) == (1.0, 1.0, 0.0, 0.0)
    assert low[1] < stats.profile(runs, [0.5])[0] < high[1]


def test_the_power_calculation_gives_the_tables_number():
    # Cohen's medium effect, paired t test, 5 %, 80 %: 34 pairs two-sided, 27 one-sided (G*Power 3.1).
    assert stats.seeds_needed(0.5, 1.0) == 34
    assert stats.seeds_needed(0.5, 1.0, greater=True) == 27
    assert stats.seeds_needed(0.5, 0.0) == 6  # 2^(1 - 6) is the first p below 0.05
    assert stats.seeds_needed(0.5, 0.0, greater=True) == 5  # 2^-5
    assert stats.seeds_needed(0.01, 1.0) is None  # more than 1,000


@pytest.mark.parametrize("greater", [False, True])
def test_so_many_seeds_do_separate(greater):
    """Data drawn as the power calculation assumes, as many as it asks for: the sign-flip test sees it 80 % of the time."""
    rng = np.random.default_rng(3)
    seeds = stats.seeds_needed(1.0, 1.0, greater=greater)
    seen = np.mean([stats.sign_flip_test(rng.normal(1.0, 1.0, seeds), greater) <= 0.05 for _ in range(1000)])
    assert seen == pytest.approx(0.8, abs=0.05)


# --- what decides, against brute force --------------------------------------------------------------------------------


def flips(seeds):
    return np.array(list(itertools.product((1.0, -1.0), repeat=seeds)))


@settings(max_examples=30)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=8, unique=True), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_the_interval_holds_what_the_test_does_not_reject(values, confidence):
    d = np.array(values)
    low, high, reached = stats.sign_flip_interval(d, confidence)
    assert low <= d.mean() + 1e-9
    assert d.mean() - 1e-9 <= high
    level = 1.0 - reached
    assert reached >= confidence - 1e-9 or reached == pytest.approx(1 - 2 / 2**d.size)
    width = max(high - low, 1e-3)
    outside = [low - 1e-6 * width - 1e-7, low - width, high + 1e-6 * width + 1e-7, high + width]
    assert all(stats.sign_flip_test(d - shift) <= level + 1e-12 for shift in outside)
    # Just within, it takes more than the level to leave a shift out.
    inside = [low + 1e-6, (low + high) / 2, high - 1e-6] if high - low > 1e-5 else []
    assert all(stats.sign_flip_test(d - shift) > level - 1e-12 for shift in inside)


def test_intervals_cover_the_mean():
    rng = np.random.default_rng(5)
    covered = dict.fromkeys((5, 8), 0)
    for n in covered:
        for _ in range(1000):
            low, high, _ = stats.sign_flip_interval(rng.normal(size=n))
            covered[n] += low <= 0.0 <= high
    assert covered[5] / 1000 == pytest.approx(1 - 2 / 2**5, abs=0.02)
    assert covered[8] / 1000 == pytest.approx(0.953, abs=0.02)


def test_the_interval_of_many_pairs_is_drawn():
    from scipy import stats as scipy_stats

    d = np.random.default_rng(0).normal(0.3, 1.0, 40)
    low, high, confidence = stats.sign_flip_interval(d)
    theirs = scipy_stats.ttest_1samp(d, 0.0).confidence_interval()
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.05)
    assert confidence == pytest.approx(0.95, abs=1e-4)


@settings(max_examples=20)
@given(st.integers(3, 6), st.integers(1, 4), st.integers(0, 10**6))
def test_the_closed_procedure_takes_the_largest_p_of_all_sets(seeds, levels, number):
    d = np.random.default_rng(number).normal(0.5, 1.0, (seeds, levels))
    overall, found = stats.closed_test(d)
    sets = [s for size in range(1, levels + 1) for s in itertools.combinations(range(levels), size)]
    p = {s: stats.sign_flip_test(d[:, s].mean(axis=1)) for s in sets}
    assert overall == p[tuple(range(levels))]
    assert found == [max(p[s] for s in sets if level in s) for level in range(levels)]


def test_many_levels_stay_within_the_overall_test():
    d = np.random.default_rng(0).normal(1.0, 0.5, (8, 10))
    overall, found = stats.closed_test(d)
    assert min(found) >= overall
    assert min(found) <= stats.LEVEL


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(1, 4), st.booleans(), st.integers(0, 10**6))
def test_the_largest_statistic_corrects_step_by_step(seeds, count, greater, number):
    d = np.random.default_rng(number).normal(0.5, 1.0, (seeds, count))

    def statistic(values):
        t = values.sum(axis=0) / np.sqrt((values**2).sum(axis=0))
        return t if greater else np.abs(t)

    observed = statistic(d)
    order = sorted(range(count), key=lambda i: -observed[i])
    expected, largest = [0.0] * count, 0.0
    for rank, i in enumerate(order):
        left = order[rank:]
        p = np.mean([max(statistic(signs[:, None] * d)[left]) >= observed[i] - 1e-9 for signs in flips(seeds)])
        largest = max(largest, p)
        expected[i] = largest
    assert stats.max_t_test(d, greater) == pytest.approx(expected)


def test_a_sequence_stops_at_the_first_that_is_not_decided():
    assert stats.fixed_sequence([0.01, 0.04, 0.2, 0.001]) == [0.01, 0.04, 0.2, 0.2]
    assert stats.fixed_sequence([]) == []


def test_a_lost_score_is_not_left_out_in_silence():
    lost, whole = [np.array([1.0, 2.0, 3.0, np.nan])], [np.array([1.0, 2.0, 3.0, 4.0])]
    for aggregate in (stats.iqm, stats.mean, stats.median, stats.optimality_gap):
        assert np.isnan(aggregate(lost))
        both = [np.stack([lost[0], whole[0]])]  # of two times, one
        assert np.isnan(aggregate(both)).tolist() == [True, False]
        assert aggregate(both)[1] == aggregate(whole)
    assert np.isnan(stats.profile(lost, [0.0, 2.5])).all()
    assert np.isnan(stats.probability_of_improvement(lost, whole))
    assert np.isnan(stats.probability_of_improvement(whole, lost))


def test_the_largest_statistic_is_of_any_scale():
    rng = np.random.default_rng(0)
    d = rng.normal(0.5, 1.0, (8, 4))
    for scale in (1e-300, 1e-170, 1e170, 1e300):
        for greater in (False, True):
            assert stats.max_t_test(d * scale, greater) == stats.max_t_test(d, greater)
    one = np.arange(1.0, 6.0)
    assert stats.max_t_test(np.stack([one, one * 1e-200], axis=1)) == [0.0625, 0.0625]
