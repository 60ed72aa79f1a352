"""The work of `up` and `down`: join or start Ray, deploy, wait, watch, drain, and leave nothing behind."""
