"""Attribution windows of delayed objectives (Lattice Zipper): training rows from impressions and conversions."""
