"""How much, in what order, where: pure functions that the services and the simulator share."""
