"""Shows what the extractor understood of a study before anything is extracted: facts, checks, pictures.

`files` reads each file for itself, `study` puts a study together as a run would, `words` and `page` show it.
"""
