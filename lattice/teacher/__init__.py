"""Knowledge transfer (KTAP): a store of a teacher's outputs, and the join of these outputs to a student's rows."""
