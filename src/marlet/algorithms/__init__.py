"""Learning rules: one file a family, read top to bottom: options, state, init, act, update, named constructors."""
