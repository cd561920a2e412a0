import pytest

from lattice.portfolios.comparison import read_groups
from wukong_jax.errors import UserError


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["home/click"], "home/like is in 0 groups"),
        (["home/click", "home/like", "home/click"], "home/click is in 2 groups"),
        (["home/click", "home/like", "moon/click"], "moon/click is not of this data"),
    ],
)
def test_groups_must_hold_each_portfolio_once(names, message) -> None:
    described = [{"portfolios": [name], "dropped_columns": {}} for name in names]
    with pytest.raises(UserError, match=f"--groups: {message}; give groups that hold each portfolio of the data once"):
        read_groups(described, ["home/click", "home/like"])
