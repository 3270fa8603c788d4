"""One command on one OUT: the order of stages, what a rerun keeps, verify, repair, status, report.json."""
