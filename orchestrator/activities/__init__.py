"""What workflows cannot do by themselves: calls to the outside and writes to the books."""
