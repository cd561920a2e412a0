"""Attribution windows: impressions and conversions to training rows with labels of several windows."""
