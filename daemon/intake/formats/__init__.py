"""Files of annotated answers: what they are, and the bad answers in the rows of public data sets and exports.

Read `answers` first.
"""
