"""The device mesh, the placement of weights and tables on it, and the traffic between devices."""
