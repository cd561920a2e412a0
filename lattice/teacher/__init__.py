"""Knowledge transfer: a teacher's outputs stored, and joined to a student's rows."""
