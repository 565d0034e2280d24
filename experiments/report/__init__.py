"""Rendering of results: `page` makes HTML and Markdown."""
