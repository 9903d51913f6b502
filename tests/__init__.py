"""The tests have the structure of the package, and each test creates the data that it needs."""
