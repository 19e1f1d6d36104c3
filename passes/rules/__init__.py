"""The rule tables of `canonicalize`: one subject a file, each rule with its contract."""
