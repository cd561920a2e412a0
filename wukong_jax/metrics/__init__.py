"""Mergeable sums on devices, and the metrics formed from them on the host.

auc                 exact, and binned with an error bound
grouped_auc         GAUC
normalized_entropy  log loss of logits, and NE
calibration         predicted over observed, and the curve
accumulate          sums of a batch that add up over steps, devices and hosts
exact_metrics       the same metrics from a whole split's logits, in float64
"""
