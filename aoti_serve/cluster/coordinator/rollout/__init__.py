"""Carries out the rollout of a candidate: gathers what gateways have counted, and does what the rules decide."""
