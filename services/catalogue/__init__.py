"""What can be searched: rows made from a store's commits, kept in step with them, and the questions that are asked of them."""
