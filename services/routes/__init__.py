"""Routes of the API: each reads a request, calls one thing, and answers."""
