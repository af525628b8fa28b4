"""Of `ray.util.client` only what test files import: there is no Ray Client."""
