"""Search for inputs on which functional engine and RTL differ: random machine descriptions, models and programs."""
