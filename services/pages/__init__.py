"""Pages for people in browsers, rendered here and usable without scripts; they change nothing but keys and grants."""
