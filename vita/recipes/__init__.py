"""Lives that ship with Vita, as YAML."""
