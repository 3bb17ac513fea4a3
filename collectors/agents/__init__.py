"""Local coding agents: one file per tool, plus what reading their logs has in common."""
