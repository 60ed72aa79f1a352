"""The gateway's HTTP interface as an OpenAPI document: every route that is served, with the names of its models."""
