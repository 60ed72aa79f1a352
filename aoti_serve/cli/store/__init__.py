"""`aoti-serve store`: commands that look after a store, with or without a server."""
