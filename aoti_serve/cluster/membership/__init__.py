"""Who follows a coordinator, who lives, and how a process stays in step."""
