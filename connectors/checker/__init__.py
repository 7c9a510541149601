"""Rules of reports come from outside: patterns and JSON Schemas are limited here, and run in a child process.

Read `client` first: the rest of erratad asks there. `bounds` has the limits that need no child.
"""
