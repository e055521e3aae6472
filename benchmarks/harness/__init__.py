"""How something is measured: rounds, floors, what a number belongs to, the budget of time."""
