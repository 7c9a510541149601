"""The HTTP interface: feedback, probes, the operators' API and the console. Read `app` first."""
