"""The documentation: pages in Markdown, and the program that makes the generated ones."""
