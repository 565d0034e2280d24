"""Rendering of results.

`page` makes Markdown and HTML of the templates in `templates/`; `charts` makes pictures.
"""
