"""`aoti-serve top`: the console in a terminal."""
