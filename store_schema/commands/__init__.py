"""The commands of `store-schema`, one module for each kind of work; knows no backend and no protocol."""
