"""Pure functions over text: rules, refusals, words, similarity. Read `rules` first."""
