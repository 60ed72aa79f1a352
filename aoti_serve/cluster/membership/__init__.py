"""Membership: the coordinator's server for its members, their connections to it, and the check whether they live."""
