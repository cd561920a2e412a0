import numpy as np
import pytest

from lattice.sketch.objective import Budget, compute_auc_of_equal_objective, compute_objective
from wukong_jax.errors import UserError


def test_objective_is_auc_over_a_small_power_of_flops():
    assert compute_objective(0.75, 1e6) == pytest.approx(0.75 * 10 ** (-6 * 0.003), rel=1e-12)
    assert compute_objective(0.75, 1e6, exponent=0) == 0.75


@pytest.mark.parametrize(("ratio", "worth"), [(2.0, 0.00208), (17.0, 0.00854)])
def test_exponent_prices_flops_as_the_docstring_says(ratio, worth):
    """A model of `ratio` times the FLOPs is worth as much where its AUC is higher by the share `worth`."""
    small = compute_objective(0.75, 3e5)
    assert compute_objective(0.75 * (1 + worth), 3e5 * ratio) == pytest.approx(small, rel=1e-5)
    assert compute_objective(0.75 * (1 + 0.9 * worth), 3e5 * ratio) < small


def test_line_of_equal_worth_goes_through_its_model():
    line = compute_auc_of_equal_objective(compute_objective(0.7, 4e5), np.array([4e5, 8e5]))
    np.testing.assert_allclose(line, [0.7, 0.7 * 2**0.003], rtol=1e-12)


def test_model_without_flops_is_refused():
    with pytest.raises(UserError, match="train_flops_per_example = 0"):
        compute_objective(0.7, 0)
    with pytest.raises(ValueError, match="auc = nan"):
        compute_objective(float("nan"), 1e5)


def test_budget_names_the_limit_that_is_broken():
    budget = Budget(flops=2e6, milliseconds=4)
    assert budget.explain_excess(2e6, 4.0) == ""
    assert budget.explain_excess(2e6) == ""
    assert budget.explain_excess(2.1e6, 9.0) == "2.1e+06 training FLOPs per example: the budget is 2e+06"
    assert budget.explain_excess(1e6, 4.5) == "4.5 ms per predict step: the budget is 4"
    assert Budget().explain_excess(1e30, 1e30) == ""
