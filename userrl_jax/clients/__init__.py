"""Ways to reach a model that runs elsewhere; knows no JAX and no gym."""
