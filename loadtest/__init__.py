"""Load on the order system, through its REST API, and the verdict on how it held."""
