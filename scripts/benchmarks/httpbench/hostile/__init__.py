"""Who asks for too much, and who waits for it: a small client beside each hostile one.

`payloads` says what hostile bytes look like, `wire` how they are sent, `cases` what is done with them, and
`models` what they go to. `probe` is the small client, in a process of its own; `report` shows how long it had to wait.
"""
