"""What Ray keeps here and test files written for Ray import: `test_utils`."""
