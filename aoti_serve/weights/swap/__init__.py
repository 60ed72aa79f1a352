"""A swap: what its members are told and report, and when it is committed. No Ray."""
