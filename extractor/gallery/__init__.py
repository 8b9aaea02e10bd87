"""Shows the entries of a store as a contact sheet for visual control, from the store alone: no image of a study is needed.

`choose` finds the entries and what failed, `cards` reads and draws one entry, `page` writes the files.
"""
