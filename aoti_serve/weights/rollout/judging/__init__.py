"""Judges what was counted.

`rules` finds what is beyond its limit, by the statistics in `evidence`; `unjudged` names the rules that could find
nothing, since they have seen too little.
"""
