"""What proves a hold, for our tests and for yours: `holdfast.testing.faults` kills its writers."""
