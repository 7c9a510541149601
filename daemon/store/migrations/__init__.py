"""The revisions of the schema, in `versions/`; `daemon.store.migrate` runs them."""
