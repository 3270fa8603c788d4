"""Modules that carry out one command on one OUT: stage order, resume, verify, repair, status, report.json."""
