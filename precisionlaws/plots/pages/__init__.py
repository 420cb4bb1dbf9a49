"""The parts of the report: safe markup, inline figures, sentences, sections, and the page around them."""
