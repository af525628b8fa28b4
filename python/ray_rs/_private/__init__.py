"""Names that Ray keeps private and that libraries and test files written for it import all the same.

Only what can be answered truly is here; `ray_rs` itself uses none of it.
"""
