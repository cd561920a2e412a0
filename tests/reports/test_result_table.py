"""Tests the table of results on screen."""

from wukong_jax.reports.result_table import format_results

RAN = {
    "examples_seen": 1000,
    "examples_per_second": 10.0,
    "dense_parameters": 1,
    "embedding_parameters": 2,
    "train_flops_per_example": 1e6,
}


def make_summary(domains=(), objectives=("click",), rows=None, **changes):
    """Makes a summary in which every domain and objective has another AUC."""
    test = {"auc": 0.7, "normalized_entropy": 0.9, "log_loss": 0.5, "rows": 100.0}
    for o, objective in enumerate(objectives):
        if len(objectives) > 1:
            test |= {
                f"{objective}/auc": 0.6 + o / 10,
                f"{objective}/normalized_entropy": 0.8,
                f"{objective}/rows": 90.0,
            }
        for g, domain in enumerate(domains):
            test[f"{domain}/{objective}/auc"] = 0.5 + g / 100 + o / 10
            test[f"{domain}/{objective}/normalized_entropy"] = 0.95
            test[f"{domain}/{objective}/rows"] = float(rows[g] if rows else 10 + g)
    return {"name": "model", "test": test | changes, "domains": domains, "objectives": objectives, **RAN}


def test_one_domain_and_one_objective_have_no_further_table():
    lines = format_results(make_summary()).splitlines()
    assert lines[:2] == [
        "test                 AUC          NE    log loss",
        "model           0.700000    0.900000    0.500000",
    ]
    assert len(lines) == 3


def test_domains_have_rows_auc_and_ne():
    lines = format_results(make_summary(("shop", "a rather long name of a domain"))).splitlines()
    assert lines[3].split() == ["domain", "rows", "AUC", "NE"]
    assert lines[4].split() == ["all", "100", "0.700000", "0.900000"]
    assert lines[5].split() == ["shop", "10", "0.500000", "0.950000"]
    assert lines[6].split()[-3:] == ["11", "0.510000", "0.950000"]
    assert len({len(line) for line in lines[3:7]}) == 1  # aligned


def test_of_many_domains_those_with_the_most_rows_are_shown_in_the_schema_s_order():
    domains = tuple(f"d{g}" for g in range(57))
    text = format_results(make_summary(domains, rows=[1000 - g if g % 2 else g for g in range(57)]))
    shown = [line.split()[0] for line in text.splitlines() if line.startswith("d") and line[1].isdigit()]
    assert shown == [f"d{g}" for g in range(1, 40, 2)]
    assert "the 20 domains with the most rows, of 57; all are in summary.json" in text


def test_an_objective_that_is_not_defined_says_so_and_the_mean_says_over_how_many():
    changes = {"buy/auc": None, "buy/normalized_entropy": float("nan"), "auc_objectives": 1.0}
    text = format_results(make_summary((), ("click", "buy"), **changes))
    assert "AUC and NE are means over the 1 of 2 objectives for which they are defined" in text
    assert text.count("not defined") == 2
    assert "nan" not in text


def test_summaries_of_earlier_versions_are_shown_without_domains():
    summary = make_summary(("shop", "news"))
    del summary["domains"], summary["objectives"]
    assert "shop" not in format_results(summary)


def test_a_log_loss_that_is_not_defined_is_on_no_way():
    summary = make_summary(log_loss=float("nan")) | {
        "references": {"lr": {"log_loss": 0.6}, "bayes": {"log_loss": 0.4}}
    }
    assert "% of the way" not in format_results(summary)
    assert "not defined" in format_results(summary)
