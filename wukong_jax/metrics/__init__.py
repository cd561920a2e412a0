"""Metrics: mergeable sums on devices, and the metrics computed from them on the host.

auc                 AUC (area under the ROC curve), exact or binned with an error bound
grouped_auc         GAUC (grouped AUC)
normalized_entropy  log loss of logits, and NE (normalized entropy)
calibration         predicted over observed positives, and the calibration curve
accumulate          sums over a batch that add up over steps, devices and hosts
sums_by_place       sums of values by their place in an array, without atomic additions on GPUs
exact_metrics       the same metrics from the logits of a whole split, in float64
"""
