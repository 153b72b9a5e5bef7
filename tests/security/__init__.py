"""What a stranger may try: each test first showed a hole on a real server."""
