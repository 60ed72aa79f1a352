"""What `up` and `down` do: join or start Ray, deploy, wait, watch, drain, and leave nothing behind."""
